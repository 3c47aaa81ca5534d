"""A laboratory: does a better value function make a better model, and when is KTO better than DPO?"""
