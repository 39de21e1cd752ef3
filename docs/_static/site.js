// What is wider than the page scrolls by itself: by keyboard, too.
addEventListener("load", () => {
  for (const box of document.querySelectorAll("pre, .table-wrapper, mjx-container")) {
    if (box.scrollWidth > box.clientWidth && !box.hasAttribute("tabindex")) {
      box.tabIndex = 0;
    }
  }
});
