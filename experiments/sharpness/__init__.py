"""Does sharpness-aware training make a segmentation network more robust?"""
