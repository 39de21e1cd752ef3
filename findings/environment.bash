# Sourced by every script of this folder, which has made a temporary $folder: a virtual environment in it.
# Only report.py beside this file is importable besides the installed packages; nothing is written here.
export PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1 TMPDIR=$folder HF_HOME=$folder/hub HF_HUB_OFFLINE=1
cd "$folder"

# environment PACKAGE==VERSION ...: install these, and nothing else by name.
environment() {
    "${PYTHON:-python3}" -m venv venv
    venv/bin/python -m pip install --quiet "$@"
}

# observe < PROGRAM: run the Python program on standard input; its exit status is the script's.
observe() {
    venv/bin/python -W ignore -
}
