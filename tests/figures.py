"""What a reader sees of a figure."""

from matplotlib.axes import Axes


def written(ax: Axes) -> list[str]:
    """Return every text of the figure, after a full drawing."""
    ax.figure.draw_without_rendering()
    texts = (artist.get_text() for artist in ax.figure.findobj(lambda artist: hasattr(artist, "get_text")))
    return [text for text in texts if text]
