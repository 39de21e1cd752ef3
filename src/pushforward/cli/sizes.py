"""`pushforward sizes`."""

from __future__ import annotations

from pushforward.cli.base import Command
from pushforward.recipes.options import option


class Sizes(Command):
    """List the sizes of networks: parameters, and operations for one sample."""

    shape: tuple[int, ...] = option(
        (1, 28, 28), "Channels, height and width of an image; also of a signal or a volume."
    )
    classes: int = option(10, "Number of labels; 0 for none.", ge=0)

    def run(self) -> int:
        from rich.console import Console
        from rich.table import Table

        from pushforward.nets import sizes

        rows = sizes.table(self.shape, self.classes or None)
        labels = f"{self.classes} classes" if self.classes else "no classes"
        table = Table(title=f"{' x '.join(map(str, self.shape))}, {labels}")
        for column in ("network", "size", "patch"):
            table.add_column(column)
        for column in ("parameters / M", "multiply-adds / G", "operations / G"):
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(
                row.family,
                row.size,
                "" if row.patch is None else str(row.patch),
                f"{row.parameters / 1e6:.2f}",
                f"{row.flops / 2e9:.3f}",
                f"{row.flops / 1e9:.3f}",
            )
        console = Console(highlight=False)
        console.print(table)
        console.print("One forward pass for one image; a multiply-add is two operations.")
        return 0
