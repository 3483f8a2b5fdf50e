"""Networks in torch: pillars to BEV maps to head maps, and everything that makes, stores and runs them."""
