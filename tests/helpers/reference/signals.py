"""A map from vibration, written out: one loop after another over the whole record, nothing in pieces."""

from __future__ import annotations

import math

import numpy as np
from scipy.interpolate import CubicSpline, make_interp_spline


def edges(x, low, high):
    """Moments, in samples, at which a signal passes `high` after it was below `low`."""
    found, armed = [], False
    for i, value in enumerate(x):
        if value < low:
            armed = True
        elif value > high and armed:
            found.append(i - 1 + (high - x[i - 1]) / (value - x[i - 1]))
            armed = False
    return np.array(found)


def thresholds(x):
    size = max(1, len(x) // 16)
    blocks = [x[start : start + size] for start in range(0, len(x), size)]
    groups = np.array_split(np.arange(len(blocks)), min(16, len(blocks)))
    low = np.median([min(blocks[i].min() for i in group) for group in groups])
    high = np.median([max(blocks[i].max() for i in group) for group in groups])
    return low + 0.4 * (high - low), low + 0.6 * (high - low)


def meshes(x, per_turn, teeth):
    """Moments and mesh counts of the pulses of an encoder without a fault."""
    moments = edges(x, *thresholds(x))
    return moments, np.arange(len(moments)) / per_turn * teeth


def lowpass(keep, bar, rate):
    """A windowed sinc that falls by 80 dB from one frequency to another (Kaiser)."""
    beta = 0.1102 * (80 - 8.7)
    taps = math.ceil((80 - 7.95) / 2.285 / (2 * np.pi * (bar - keep) / rate) + 1) // 2 * 2 + 1
    n = np.arange(taps) - taps // 2
    cut = (keep + bar) / 2 / rate
    h = np.array([2 * cut * np.sinc(2 * cut * k) for k in n]) * np.kaiser(taps, beta)
    return h / h.sum()


def resampled(x, rate, moments, counts, frequencies, samples, orders, begin, periods, period):
    """The signal at each part of each mesh: (periods, period, samples)."""
    keep, bar = orders * max(frequencies), min(samples / 2 * min(frequencies), rate / 2)
    up = math.ceil(keep / (rate / 8))
    dense = np.zeros(len(x) * up)
    for i, value in enumerate(x):
        dense[i * up] = value * up
    smooth = np.convolve(dense, lowpass(keep, bar, rate * up), mode="same")
    spline, when = make_interp_spline(np.arange(len(dense)), smooth, k=3), CubicSpline(counts, moments)
    out = np.empty((periods, period, samples))
    for p in range(periods):
        for mesh in range(period):
            for k in range(samples):
                out[p, mesh, k] = spline(when(begin + p * period + mesh + k / samples) * up)
    return out


def mapped(signal, begin, rows, columns):
    """The mean of some periods, less its mean over the turns of the ring, as the RMS of each pair of teeth."""
    periods, period, samples = signal.shape
    average = sum(signal) / periods
    turns = period // columns
    out = np.full((rows, columns), np.nan)
    for mesh in range(period):
        squares = 0.0
        for k in range(samples):
            usual = sum(average[turn * columns + mesh % columns, k] for turn in range(turns)) / turns
            squares += (average[mesh, k] - usual) ** 2
        cell = (begin + mesh) % rows, (begin + mesh) % columns
        assert np.isnan(out[cell])
        out[cell] = math.sqrt(squares / samples)
    return out
