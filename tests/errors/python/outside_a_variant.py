from attncc import any_over

mask = any_over(4, lambda i: i == 2)
