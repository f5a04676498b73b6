"""A page of HTML, taken apart."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The addresses, ids and words of a page."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.ids, self.tags, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "srcset", "action"):
                self.addresses.append(value)
            if key == "id":
                self.ids.append(value)

    def handle_data(self, data):
        self.words.append(data)
