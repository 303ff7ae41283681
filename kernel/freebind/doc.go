// Package freebind lets a server listen on an address that the host is about to have: that of a pods' gateway, which comes with the bridge, goes with
// it, and is back when the daemon has made the bridge anew. The socket lives through all of that.
package freebind
