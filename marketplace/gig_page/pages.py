from marketplace.gig_page.model import GigPage
from marketplace.rendering import render


def gig_page(gig: GigPage) -> str:
    return render("gig.html", gig=gig)
