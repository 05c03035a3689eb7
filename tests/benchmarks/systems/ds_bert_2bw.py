"""ds_bert under PipeDream-2BW's schedule."""

from systems.ds_bert import main

if __name__ == "__main__":
    main("ds_bert_2bw", "2bw")
