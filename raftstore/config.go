package raftstore

import (
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"

	"github.com/threshold-access/threshold/internal/fault"
)

// Config says where a replica keeps its state and how it reaches the others.
type Config struct {
	// Dir is the data folder, made if it is missing, used by one process at a time. Required.
	Dir string

	// ReplicaID names this replica among the members for ever; another replica never reuses it. Required.
	ReplicaID string

	// Stream carries raft between replicas. The store owns it from Run on and closes it. Required.
	Stream raft.StreamLayer

	// Bootstrap makes a folder without any log the first and only member of a new cluster. On a folder with a
	// log it changes nothing, so that a crash during birth does no harm: ask Empty. Exactly one replica of a
	// cluster is ever bootstrapped.
	Bootstrap bool

	// Heartbeat is the time without word from a leader after which a replica stands for election. Zero means
	// 50 ms, right for a single voter, who waits for nobody; several want max(200 ms, 4 × the worst round
	// trip). Less than 5 ms is refused.
	Heartbeat time.Duration

	// Log gets what an operator should know. Zero discards it.
	Log *slog.Logger

	// Now is the leader's clock, stamped into commands. Zero means time.Now.
	Now func() time.Time

	// FS keeps log and stream segments. Zero means the machine's; tests hand in one that loses power.
	FS types.VFS

	// Bounds limits what the store keeps at hand; zero fields mean the defaults told there.
	Bounds Bounds
}

// Bounds are sizes a test may want small and an operator hardly ever wants to change.
type Bounds struct {
	SnapshotEntries  uint64        // log entries between snapshots; zero means 8192
	TrailingEntries  uint64        // entries kept behind a snapshot for slow followers; zero means 4096
	LogSegmentBytes  int           // size of a raft log file, allocated ahead; zero means 16 MiB
	StreamSegment    int64         // size from which a stream begins a new file; zero means 4 MiB
	WatchBytes       int           // events kept for watchers to resume; zero means 32 MiB
	SnapshotInterval time.Duration // how often the need of a snapshot is considered; zero means 30 s
}

const (
	defaultHeartbeat = 50 * time.Millisecond
	minHeartbeat     = 5 * time.Millisecond
	keptSnapshots    = 2
)

// check fills in the defaults and reports all faults of c at once.
func (c *Config) check() error {
	c.defaults()
	var bad string
	for _, f := range []struct {
		wrong bool
		msg   string
	}{
		{c.Dir == "", "no data folder"},
		{c.ReplicaID == "", "no replica id"},
		{c.Stream == nil, "no stream layer"},
		{c.Heartbeat < minHeartbeat, "a heartbeat under 5 ms"},
		{c.Bounds.LogSegmentBytes < 64<<10, "a log segment under 64 KiB"},
		{c.Bounds.StreamSegment < 0 || c.Bounds.WatchBytes < 0 || c.Bounds.SnapshotInterval < 0, "a negative bound"},
	} {
		if f.wrong && bad != "" {
			bad += ", "
		}
		if f.wrong {
			bad += f.msg
		}
	}
	if bad != "" {
		return fault.New(
			fault.Invalid,
			"raftstore.New",
			"the store's configuration has "+bad,
			"correct the auth section of the configuration file",
		)
	}
	c.Dir = filepath.Clean(c.Dir)
	return nil
}

func (c *Config) defaults() {
	setDefault(&c.Heartbeat, defaultHeartbeat)
	setDefault(&c.Log, slog.New(slog.NewTextHandler(io.Discard, nil)))
	setDefault(&c.Bounds.SnapshotEntries, 8192)
	setDefault(&c.Bounds.TrailingEntries, 4096)
	setDefault(&c.Bounds.LogSegmentBytes, 16<<20)
	setDefault(&c.Bounds.StreamSegment, 4<<20)
	setDefault(&c.Bounds.WatchBytes, 32<<20)
	setDefault(&c.Bounds.SnapshotInterval, 30*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.FS == nil {
		c.FS = newDiskFS()
	}
}

func setDefault[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}
