from marketplace.rendering import render
from marketplace.user_page.model import UserPage


def user_page(user: UserPage) -> str:
    gigs = sorted(user.gigs, key=lambda gig: (gig.title.casefold(), gig.gig_id))
    return render("user.html", user=user, gigs=gigs)
