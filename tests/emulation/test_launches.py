"""What a step gives a GPU to do is no more than the tables say."""

import cuda_launches


def test_nothing_is_more_than_in_the_table():
    assert cuda_launches.more_than_in_the_table(list(cuda_launches.measure())) == []


def test_the_document_has_the_table():
    table = cuda_launches.markdown(cuda_launches.read_table())
    assert cuda_launches.between() == table
