//! Reading HLS media playlists.
