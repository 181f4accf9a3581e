"""What ``eventbus demo`` shows.

`shop` is a small application that uses a bus, written as any application would be; `story` sends
it Payment Kit's events, scene by scene; `stage` shows what happens.

The shop's bus can be looked at like any other: ``eventbus describe eventbus.demo.shop:bus``.
"""
