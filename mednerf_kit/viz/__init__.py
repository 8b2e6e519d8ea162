"""What is drawn: pictures, videos, curves and the HTML report."""
