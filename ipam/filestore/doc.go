// Package filestore keeps leases in a directory and allocates from it.
package filestore
