"""The dashboard of a run that shows nothing."""


class NullVisualizer:
    """The dashboard of a run without one; its methods do nothing."""

    enabled = False

    def vis_scalar(self, name, x, y, *, line=None):
        """Show nothing."""

    def vis_image(self, name, image):
        """Show nothing."""

    def vis_table(self, name, table):
        """Show nothing."""
