from langchain_hfembed.loading import Loaded as Loaded  # TEMP
