from marketplace.rendering import render
from marketplace.search.model import SearchPage


def search_page(found: SearchPage) -> str:
    return render("search.html", found=found)
