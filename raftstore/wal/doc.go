// Package wal answers: what does hashicorp/raft-wal leave open on a failing disk, and how is it closed?
//
// raft-wal keeps the raft log in segment files and its list of files in a bbolt database. Release v0.4.0 does
// not survive every crash, and like most programs it goes on after a write failed. This package opens it with
// three additions:
//
//   - Repair (repair.go). Before raft-wal reads the last segment file, what a crash left behind the last
//     complete commit becomes zeros, and a segment that was sealed on disk is sealed in the metadata too.
//   - Durable names (fs.go). The first fsync of a file also makes its directory entry durable.
//   - A latch (latch.go, guard.go). The first failed write, fsync or metadata change is final: no later
//     change reaches the disk until the log is opened anew.
//
// The latch is exported because the rest of a replica must obey it as well: its stream segments, its
// snapshots and its connections to other replicas. raftstore is the only caller.
package wal
