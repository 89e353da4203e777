"""A page on this machine on which a person begins a drawing, and the model completes it.

Starlette and uvicorn serve it: Prefect needs both, so they cost no further package. The interface is a handful of
requests, and the page a canvas and a stream of rows. Gradio would add its own server and page, with a sketchpad whose
pen is not that of the data, and many packages.
"""
