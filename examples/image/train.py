"""Fit a line, on a GPU if there is one: a placeholder for your own training."""

from __future__ import annotations

import socket

import torch

device = "cuda" if torch.cuda.is_available() else "cpu"
x = torch.rand(10_000, 1, device=device)
y = 3 * x + 2 + 0.01 * torch.randn_like(x)
model = torch.nn.Linear(1, 1).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
for _step in range(500):
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
print(f"{socket.gethostname()}: {name}: y = {model.weight.item():.2f} x + {model.bias.item():.2f}")
torch.save(model.state_dict(), "model.pt")
