def build(places):
    pass
