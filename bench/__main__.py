from mixbench.bench.cli import main

main()
