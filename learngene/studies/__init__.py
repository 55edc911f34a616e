"""Questions about trained models: how soon a layer re-learns, where attention looks, what each depth does."""
