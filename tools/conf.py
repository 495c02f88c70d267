"""Sphinx's settings for the documentation site; tools/site.py calls it."""

project = "gpuprov"
author = "gpuprov contributors"
extensions = ["myst_parser", "sphinx_antsibull_ext"]
html_theme = "furo"
html_title = "gpuprov"
# Nothing is fetched from elsewhere, and the search works from files.
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_dark_style = "monokai"
highlight_language = "none"
myst_heading_anchors = 4
# The tables of docs/performance.md begin at the third level.
suppress_warnings = ["myst.header"]
