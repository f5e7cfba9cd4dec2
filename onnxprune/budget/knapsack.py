"""The multiple-choice knapsack: one level of each group, the least loss in all within what they may cost."""
