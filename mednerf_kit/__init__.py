"""mednerf-kit: from one X-ray to a 3-D attenuation volume and every view on the orbit, with honest uncertainty.

Research use only, not for diagnosis.
"""

__version__ = "0.1.0"
DISCLAIMER = "Research use only, not for diagnosis."
