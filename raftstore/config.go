package raftstore

import (
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/raftstore/wal"
)

// Config says where a replica keeps its state and how it reaches the others.
type Config struct {
	// Dir is the data folder. It is created if it is missing, and used by one process at a time. Required.
	Dir string

	// ReplicaID names this replica among the members for ever. Another replica never reuses it. Required.
	ReplicaID string

	// Stream connects replicas for raft's messages. The store owns it from Run on and closes it. Required.
	Stream raft.StreamLayer

	// Bootstrap makes a folder without a log the first and only member of a new cluster. On a folder with a
	// log it changes nothing, so a crash during bootstrap does no harm: ask Empty whether anything was
	// written. Exactly one replica of a cluster is ever bootstrapped.
	Bootstrap bool

	// Heartbeat is the time without a message from the leader after which a replica stands for election. Zero
	// means 50 ms, which is right for a single voter. Several voters need max(200 ms, 4 × the longest round
	// trip). Less than 5 ms is refused.
	Heartbeat time.Duration

	// Log gets the messages for operators. Zero discards them.
	Log *slog.Logger

	// Now is the clock whose time the leader puts into commands. Zero means time.Now.
	Now func() time.Time

	// FS keeps the files of the log and of streams. Zero means the machine's file system; tests use one that
	// loses power.
	FS types.VFS

	// Bounds limits sizes and intervals. Zero fields mean the defaults.
	Bounds Bounds
}

// Bounds are sizes that tests want small. Operators have no reason to change them.
type Bounds struct {
	SnapshotEntries  uint64        // log entries between snapshots; zero means 8192
	SnapshotBytes    int           // bytes of log between snapshots; zero means 32 MiB
	TrailingEntries  uint64        // entries kept behind a snapshot for slow followers; zero means 4096
	LogSegmentBytes  int           // size of a raft log file, allocated in advance; zero means 16 MiB
	StreamSegment    int64         // size in bytes from which a stream begins a new file; zero means 4 MiB
	WatchBytes       int           // events kept for watches to resume from; zero means 32 MiB
	SnapshotInterval time.Duration // how often raft checks whether a snapshot is due; zero means 30 s
}

const (
	defaultHeartbeat = 50 * time.Millisecond
	minHeartbeat     = 5 * time.Millisecond
	keptSnapshots    = 2
)

// check sets zero fields to their defaults, and then returns one fault Invalid that names everything that is
// wrong with c.
func (c *Config) check() error {
	c.setDefaults()
	bounds := c.Bounds
	var faults []string
	for _, fieldFault := range []struct {
		exists bool
		msg    string
	}{
		{c.Dir == "", "no data folder"},
		{c.ReplicaID == "", "no replica id"},
		{c.Stream == nil, "no stream layer"},
		{c.Heartbeat < minHeartbeat, "a heartbeat under 5 ms"},
		{bounds.LogSegmentBytes < 64<<10, "a log segment under 64 KiB"},
		{
			bounds.StreamSegment < 0 || bounds.WatchBytes < 0 || bounds.SnapshotInterval < 0 ||
				bounds.SnapshotBytes < 0,
			"a negative bound",
		},
	} {
		if fieldFault.exists {
			faults = append(faults, fieldFault.msg)
		}
	}
	if len(faults) > 0 {
		return storeConfigInvalid.New("raftstore.New", fault.Args{"faults": strings.Join(faults, ", ")})
	}
	c.Dir = filepath.Clean(c.Dir)
	return nil
}

// setDefaults sets zero fields to their defaults.
func (c *Config) setDefaults() {
	setDefault(&c.Heartbeat, defaultHeartbeat)
	setDefault(&c.Log, slog.New(slog.NewTextHandler(io.Discard, nil)))
	setDefault(&c.Bounds.SnapshotEntries, 8192)
	setDefault(&c.Bounds.SnapshotBytes, 32<<20)
	setDefault(&c.Bounds.TrailingEntries, 4096)
	setDefault(&c.Bounds.LogSegmentBytes, 16<<20)
	setDefault(&c.Bounds.StreamSegment, 4<<20)
	setDefault(&c.Bounds.WatchBytes, 32<<20)
	setDefault(&c.Bounds.SnapshotInterval, 30*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.FS == nil {
		c.FS = wal.NewFS()
	}
}

// setDefault sets *v to def if it is zero.
func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}
