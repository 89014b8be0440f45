// Package raftstore answers: how is it kept?
//
// It is the only state of the auth service: a replicated map of keys with conditional writes, streams of
// records that are only appended to, watches that resume from a revision, and leases that remove their keys
// when they end. One revision is one index of the raft log.
//
// Guarantees. Commit is all or nothing, and what it acknowledged survives kill -9 and power loss. Get, List
// and Read are local; after Linearize they show everything acknowledged before it. A watch misses nothing: it
// delivers every event in order or returns fault Expired. A disk that fails once is not trusted again: the
// store refuses writes until it is opened anew.
//
// The entries of the raft log are versioned from their first byte, and their format only grows (command.go).
// Package wal opens the log and closes what raft-wal leaves open on a failing disk. DESIGN.md tells why each
// part is where it is. Only auth/state imports this package. Tests elsewhere open a store with
// raftstoretest.Open.
package raftstore
