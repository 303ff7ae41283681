// Package sysdump owns the archive that twillctl sysdump makes: one .tar.gz with a directory for each node, and a manifest that names each file, when and
// by what it was taken, and what could not be taken.
//
//	collectors ── Part{name, take} ──► Collect ──► Archive ──► twill-sysdump.tar.gz, of mode 0600
//	                                                  └──► index.json, the manifest
//
// A part that fails does not fail the archive. Names are those of the parts, in their order, so that two archives of one cluster
// can be compared file by file. Sizes are bounded: what is too large is cut and said to be.
//
// It takes what it is given: that no secret is in it is the business of those who collect, at the source (package daemon/redact).
package sysdump
