"""How many places in a prompt a clip takes: log-mel frames -> positions in a Whisper-like encoder -> audio tokens.

Frames come every 10 ms. A convolution of stride 2 and a pooling of two leave a token for every 40 ms.
"""

# Fewer leave no token.
MIN_FRAMES = 3


def encoder_positions(num_frames):
    """Positions inside the encoder for so many log-mel frames (an `int` or a tensor), one for every 20 ms; 400 give 200."""
    return (num_frames - 1) // 2 + 1


def num_audio_tokens(num_frames):
    """Tokens that leave the encoder for so many log-mel frames (an `int` or a tensor); 400 give 100."""
    return encoder_positions(num_frames) // 2  # pooling drops an odd last position


__all__ = ["MIN_FRAMES", "encoder_positions", "num_audio_tokens"]
