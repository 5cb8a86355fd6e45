"""The detector of spooftrace as a Space; the package lies beside this file."""

from spooftrace.spaces.demo_app import DemoApp


if __name__ == "__main__":
    DemoApp().launch()
