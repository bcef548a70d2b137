"""What tests share: made inputs, small bundles, the checkout and what lies beside it."""
