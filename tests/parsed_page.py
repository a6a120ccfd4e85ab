"""report.html as its elements, by html.parser alone."""
from html.parser import HTMLParser

VOID = {"input", "img", "meta"}


class Element:
    """An element: name, attributes, children; text() is all of its text."""

    def __init__(self, name, attributes, parent):
        self.name, self.attributes, self.parent, self.children = name, attributes, parent, []

    def all(self, name=None, **attributes):
        """Return the elements below with this name and these attributes, in order; class_="x" is one of the classes."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                found += [child] * child._is(name, attributes) + child.all(name, **attributes)
        return found

    def _is(self, name, attributes):
        classes = (self.attributes.get("class") or "").split()
        return name in (None, self.name) and all(
            value in classes if key == "class_" else self.attributes.get(key) == value
            for key, value in attributes.items())

    def text(self):
        return "".join(child if isinstance(child, str) else child.text() for child in self.children)


class Page(HTMLParser):
    """The page; raises AssertionError for an end tag without its start."""

    def __init__(self, text):
        super().__init__()
        self.root = self.at = Element("", {}, None)
        self.feed(text)
        self.close()
        assert self.at is self.root, f"<{self.at.name}> has no end"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), "an attribute twice"
        element = Element(tag, dict(attrs), self.at)
        self.at.children.append(element)
        if tag not in VOID:
            self.at = element

    def handle_endtag(self, tag):
        assert tag == self.at.name, f"</{tag}> in <{self.at.name}>"
        self.at = self.at.parent

    def handle_data(self, data):
        self.at.children.append(data)


def parse(path):
    """Return the root element of a page."""
    return Page(path.read_text(encoding="utf-8")).root


def cells_of(table):
    """Return a table's lines of text, head and body, a list of cells each."""
    return [[cell.text() for cell in row.children if isinstance(cell, Element)] for row in table.all("tr")]


def find_table(root, caption):
    """Return the table with this caption."""
    (table,) = [table for table in root.all("table") if [each.text() for each in table.all("caption")] == [caption]]
    return table
