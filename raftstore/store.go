package raftstore

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	walsegment "github.com/hashicorp/raft-wal/segment"

	"github.com/threshold-access/threshold/internal/fault"
)

// The rooms of the data folder.
const (
	logDir    = "log"     // raft-wal: log segments, and wal-meta.db with raft's term and vote
	streamDir = "streams" // segment files
	stateDir  = "state"   // raft's snapshots, in a folder "snapshots" that raft makes
)

// Store is one replica. Its methods may be called by many goroutines.
type Store struct {
	cfg    Config
	latch  *latch
	fsm    *fsm
	lessor *lessor
	queue  chan *proposal

	raft        atomic.Pointer[raft.Raft] // nil until opened
	started     atomic.Bool
	open        chan struct{} // closed when reads may begin
	raftStopped chan struct{} // closed when raft was shut down
	stopped     chan struct{} // closed when Run has ended
}

// New checks cfg and makes a store that is not yet open. Run opens it, once.
func New(cfg Config) (*Store, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	l := newLatch()
	cfg.FS = guardFS{cfg.FS, l}
	files := newSegmentFiles(cfg.FS, filepath.Join(cfg.Dir, streamDir), cfg.Bounds.StreamSegment)
	return &Store{
		cfg: cfg, latch: l, fsm: newFSM(files, cfg.Bounds.WatchBytes, l), lessor: newLessor(),
		queue: make(
			chan *proposal,
		), open: make(chan struct{}), raftStopped: make(chan struct{}), stopped: make(chan struct{}),
	}, nil
}

// Run opens the store and serves until ctx ends; then it closes everything and returns nil. It returns a
// fault when the store can not be opened, or when a disk failure made this replica leave: reads then still
// answer from memory, and only opening it anew, with a new Store, makes it write again.
func (s *Store) Run(ctx context.Context) error {
	if s.started.Swap(true) {
		return fault.New(fault.Internal, "raftstore.Run", "the store was run before", "make a new one")
	}
	defer close(s.stopped)
	parts, err := s.openResources()
	if err != nil {
		_ = parts.close() // what failed first is what to tell
		if latched := s.latch.err(); latched != nil {
			return latched
		}
		return openFault(err)
	}
	s.raft.Store(parts.raft)
	close(s.open)
	s.serve(ctx, parts.raft)
	if err := parts.close(); err != nil && s.latch.err() == nil {
		return diskFault(err)
	}
	return s.latch.err()
}

// serve runs the store's own goroutines until ctx ends or the latch trips, and waits for them.
func (s *Store) serve(ctx context.Context, r *raft.Raft) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var owned sync.WaitGroup
	owned.Go(func() { s.propose(ctx, r) })
	owned.Go(func() { s.watchLeadership(ctx, r) })
	owned.Go(func() { s.expireLeases(ctx) })
	select {
	case <-ctx.Done():
	case <-s.latch.tripped:
		s.cfg.Log.Error(
			"this replica stops writing",
			"error",
			s.latch.err(),
			"remedy",
			fault.Remedy(s.latch.err()),
		)
	}
	cancel()
	s.drain(&owned)
	_ = r.Shutdown().Error() // reports only that it was shut down before
	close(s.raftStopped)
	owned.Wait()
}

// drainTime bounds how long Run waits, when it is to end, for a command that lacks a quorum.
const drainTime = 2 * time.Second

// drain lets the last command finish. raft v1.8.0 can leave a proposal that is being applied without any
// answer when it is shut down; so it is shut down when there is none, and applyCommand does not rely on an
// answer.
func (s *Store) drain(owned *sync.WaitGroup) {
	finished := make(chan struct{})
	go func() { owned.Wait(); close(finished) }() // serve waits for the same
	timer := time.NewTimer(drainTime)
	defer timer.Stop()
	select {
	case <-finished:
	case <-s.latch.tripped:
	case <-timer.C:
	}
}

// resources is what an open store holds, to be closed in the opposite order.
type resources struct {
	raft    *raft.Raft
	closers []func() error
}

func (p *resources) onClose(f func() error) { p.closers = append(p.closers, f) }

func (p *resources) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i]())
	}
	p.closers = nil
	return errors.Join(errs...)
}

// openResources opens everything. On an error the caller closes what it got.
func (s *Store) openResources() (*resources, error) {
	p := &resources{}
	stream := sync.OnceValue(s.cfg.Stream.Close)
	p.onClose(func() error { _ = stream(); return nil }) // raft's transport has mostly closed it before
	if err := makeDirs(s.cfg.Dir, logDir, streamDir, stateDir); err != nil {
		return p, err
	}
	lock, err := lockDir(s.cfg.Dir)
	if err != nil {
		return p, err
	}
	p.onClose(lock.Close)
	p.onClose(s.fsm.files.close)
	log, err := s.openLog(p)
	if err != nil {
		return p, err
	}
	files, err := raft.NewFileSnapshotStoreWithLogger(
		filepath.Join(s.cfg.Dir, stateDir),
		keptSnapshots,
		libraryLog(s.cfg.Log),
	)
	if err != nil {
		return p, err
	}
	return p, s.openRaft(
		p,
		log,
		guardSnapshots{files, filepath.Join(s.cfg.Dir, stateDir, "snapshots"), s.latch},
	)
}

// openLog opens raft-wal. The metadata store is closed by us: WAL.Close leaves it open, and its lock held.
func (s *Store) openLog(p *resources) (guardLog, error) {
	dir := filepath.Join(s.cfg.Dir, logDir)
	meta := &metadb.BoltMetaDB{}
	p.onClose(meta.Close)
	w, err := wal.Open(
		dir,
		wal.WithMetaStore(mendingMeta{guardMeta{meta, s.latch}, s.cfg.FS}),
		wal.WithSegmentFiler(walsegment.NewFiler(dir, s.cfg.FS)),
		wal.WithSegmentSize(s.cfg.Bounds.LogSegmentBytes),
		wal.WithLogger(libraryLog(s.cfg.Log)),
	)
	if err != nil {
		return guardLog{}, err
	}
	p.onClose(w.Close)
	return guardLog{w, s.latch}, ownerOnly(filepath.Join(dir, metadb.FileName))
}

func (s *Store) openRaft(p *resources, log guardLog, snaps raft.SnapshotStore) error {
	cfg := s.raftConfig()
	transport := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: guardStream{
			s.cfg.Stream,
			s.latch,
		}, MaxPool: 3, Timeout: 10 * time.Second, Logger: cfg.Logger, MsgpackUseNewTimeFormat: true,
	})
	p.onClose(transport.Close)
	if s.cfg.Bootstrap {
		if err := bootstrap(cfg, log, snaps, transport); err != nil {
			return err
		}
	}
	r, err := raft.NewRaft(cfg, s.fsm, log, log, snaps, transport)
	if err != nil {
		return err
	}
	p.raft = r
	return nil
}

// bootstrap makes this replica the first member of a new cluster, unless there is a log. raft keeps the first
// term before it writes the first entry, and takes the term for a sign of life; a birth that broke off
// between them is begun again.
func bootstrap(cfg *raft.Config, log guardLog, snaps raft.SnapshotStore, transport raft.Transport) error {
	const firstTerm = 1
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	kept, err := snaps.List()
	if err != nil {
		return err
	}
	if last > 0 || len(kept) > 0 {
		return nil
	}
	term, err := log.GetUint64(termKey)
	if err != nil {
		return err
	}
	vote, err := log.GetUint64(voteTermKey)
	if err != nil {
		return err
	}
	if term == firstTerm && vote == 0 {
		if err := log.SetUint64(termKey, 0); err != nil {
			return err
		}
	}
	self := raft.Configuration{Servers: []raft.Server{{ID: cfg.LocalID, Address: transport.LocalAddr()}}}
	return raft.BootstrapCluster(cfg, log, log, snaps, transport, self)
}

// Where raft keeps its term and the term of its last vote.
var termKey, voteTermKey = []byte("CurrentTerm"), []byte("LastVoteTerm")

func (s *Store) raftConfig() *raft.Config {
	cfg := raft.DefaultConfig()
	cfg.LocalID = raft.ServerID(s.cfg.ReplicaID)
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = s.cfg.Heartbeat, s.cfg.Heartbeat, s.cfg.Heartbeat
	cfg.CommitTimeout = min(cfg.CommitTimeout, s.cfg.Heartbeat)
	cfg.SnapshotThreshold, cfg.SnapshotInterval = s.cfg.Bounds.SnapshotEntries, s.cfg.Bounds.SnapshotInterval
	cfg.TrailingLogs = s.cfg.Bounds.TrailingEntries
	cfg.Logger = libraryLog(s.cfg.Log)
	return cfg
}

// checkOpen reports whether the state may be read.
func (s *Store) checkOpen() error {
	select {
	case <-s.open:
		return nil
	default:
		return unavailable("the store is not open yet")
	}
}

// wait returns when ready is closed, and a fault when ctx or the store ends before.
func (s *Store) wait(ctx context.Context, ready <-chan struct{}) error {
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stopped:
		return s.stoppedError()
	}
}

// stoppedError says why the store no longer serves.
func (s *Store) stoppedError() error {
	if err := s.latch.err(); err != nil {
		return err
	}
	return unavailable("the store has stopped")
}

func openFault(err error) error {
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return diskFault(err)
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.ENOTDIR) {
		return fault.Wrap(
			err,
			fault.Denied,
			"raftstore.Run",
			"the data folder can not be used: "+err.Error(),
			"check that auth's account owns the folder and may write there",
		)
	}
	return fault.Wrap(
		err,
		fault.Internal,
		"raftstore.Run",
		"the data folder can not be read: "+err.Error(),
		"check the disk, then restore the data folder from a backup",
	)
}

func unavailable(msg string) error {
	return fault.New(fault.Unavailable, "raftstore", msg, "try again in a moment")
}
