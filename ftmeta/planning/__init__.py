"""What a run needs: memory and time on given devices, before anything is started."""
