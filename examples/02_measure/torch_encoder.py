#!/usr/bin/env python3
"""A small text encoder that always has work: a program to profile.

Six transformer layers (d = 768, 12 heads, feed-forward 3072) in bf16, batch 1 x 64 tokens, as one
CUDA graph. One request after the other: replay the graph, wait for it. It knows nothing of Sublet.

    sublet profile -o p.json -- python3 examples/02_measure/torch_encoder.py

Needs PyTorch with CUDA. Runs until it is stopped, or for --seconds.
"""

import argparse
import time

import torch
from torch import nn

MODEL_DIMENSION = 768
HEADS = 12
FEED_FORWARD = 3072
LAYERS = 6


def make_encoder(device):
    layer = nn.TransformerEncoderLayer(
        d_model=MODEL_DIMENSION,
        nhead=HEADS,
        dim_feedforward=FEED_FORWARD,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    encoder = nn.TransformerEncoder(layer, num_layers=LAYERS, enable_nested_tensor=False)
    return encoder.to(device=device, dtype=torch.bfloat16).eval()


def capture(encoder, tokens):
    """The forward pass over `tokens`, a buffer that stays where it is, as a CUDA graph."""
    # Libraries allocate on first use, which a capture must not see; the capture runs on a stream of
    # its own, and so does the warm-up.
    warm_up = torch.cuda.Stream()
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):
        for _ in range(3):
            encoder(tokens)
    torch.cuda.current_stream().wait_stream(warm_up)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = encoder(tokens)
    return graph, result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, help="end by itself (default: never)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--copy-input", action="store_true",
                        help="copy each request's input to the GPU first")
    options = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device("cuda")
    shape = (options.batch, options.tokens, MODEL_DIMENSION)
    with torch.no_grad():
        encoder = make_encoder(device)
        request = torch.randn(shape).to(torch.bfloat16).pin_memory()
        tokens = request.to(device)
        graph, _result = capture(encoder, tokens)

        end = None if options.seconds is None else time.monotonic() + options.seconds
        while end is None or time.monotonic() < end:
            if options.copy_input:
                tokens.copy_(request, non_blocking=True)
            graph.replay()
            torch.cuda.synchronize()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
