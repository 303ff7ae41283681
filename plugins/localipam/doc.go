// Package localipam lets attachments take their addresses from Twill's own allocator without another process.
//
//	attach.Plugin --> attach.IPAM --> IPAM --> filestore.Allocator
//
// It translates between the two vocabularies and decides nothing. The plugin uses it when the network's ipam.type is "twill-ipam", the
// daemon when it releases what a lost DEL left.
package localipam
