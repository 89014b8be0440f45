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

	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/raftstore/wal"
)

// Folders in the data folder.
const (
	logDir    = "log"     // raft-wal: log segments, and wal-meta.db with raft's term and vote
	streamDir = "streams" // segment files
	stateDir  = "state"   // raft's snapshots, in a folder "snapshots" that raft makes
)

// Store is one replica. Its methods may be called by many goroutines.
//
// A store goes through these states once: New (nothing is open); Run (the channel open is closed when reads
// may begin); ctx ends, or the latch trips because this replica has failed; raft is shut down (raftStopped is
// closed); Run returns (stopped is closed). A store cannot be run twice.
type Store struct {
	cfg    Config
	latch  *wal.Latch // trips at the first failure after which this replica must not write
	fsm    *fsm
	lessor *lessor
	queue  chan *proposal // unbuffered: callers of Commit hand over to propose

	raft        atomic.Pointer[raft.Raft] // nil until opened
	started     atomic.Bool
	open        chan struct{} // closed when reads may begin
	raftStopped chan struct{} // closed when raft was shut down
	stopped     chan struct{} // closed when Run has ended
}

// New checks cfg and makes a store that is not open yet. Run opens it.
func New(cfg Config) (*Store, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	latch := wal.NewLatch()
	cfg.FS = wal.Guard(cfg.FS, latch)
	files := newSegmentFiles(cfg.FS, filepath.Join(cfg.Dir, streamDir), cfg.Bounds.StreamSegment)
	machine := newFSM(files, cfg.Bounds.WatchBytes, latch, cfg.Log)
	machine.load.limit, machine.load.due = cfg.Bounds.SnapshotBytes, make(chan struct{}, 1)
	return &Store{
		cfg:         cfg,
		latch:       latch,
		fsm:         machine,
		lessor:      newLessor(),
		queue:       make(chan *proposal),
		open:        make(chan struct{}),
		raftStopped: make(chan struct{}),
		stopped:     make(chan struct{}),
	}, nil
}

// ReplicaID is the name of this replica among the members.
func (s *Store) ReplicaID() string { return s.cfg.ReplicaID }

// Run opens the store and serves until ctx ends. Then it closes everything and returns nil. It returns a
// fault when the store cannot be opened. A failure of the disk ends Run early, with its fault; reads are
// still answered from memory after that. Only a new Store on the same folder can write again.
func (s *Store) Run(ctx context.Context) error {
	if s.started.Swap(true) {
		return storeRunTwice.New("raftstore.Run")
	}
	defer close(s.stopped)
	res, err := s.openResources()
	if err != nil {
		_ = res.close() // err is the first failure, and the one to report
		if latched := s.latch.Err(); latched != nil {
			return latched
		}
		return openFault(err)
	}
	s.raft.Store(res.raft)
	close(s.open)
	s.serve(ctx, res.raft)
	if err := res.close(); err != nil && s.latch.Err() == nil {
		return wal.DiskFault(err)
	}
	return s.latch.Err()
}

// serve runs the store's goroutines: the proposer, the watcher of leadership, the expiry of leases and the
// snapshots by size. They end when ctx ends or the latch trips. serve then shuts raft down and returns when
// all of them have ended. The order matters: drain waits for the command that is being applied, and raft is
// shut down after it.
func (s *Store) serve(ctx context.Context, r *raft.Raft) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var goroutines sync.WaitGroup
	goroutines.Go(func() { s.propose(ctx, r) })
	goroutines.Go(func() { s.watchLeadership(ctx, r) })
	goroutines.Go(func() { s.expireLeases(ctx) })
	goroutines.Go(func() { s.snapshotBySize(ctx, r) })
	select {
	case <-ctx.Done():
	case <-s.latch.Tripped():
		err := s.latch.Err()
		s.cfg.Log.Error("this replica stops writing", "error", err, "remedy", fault.Remedy(err))
	}
	cancel()
	s.drain(&goroutines)
	_ = r.Shutdown().Error() // says only that raft was shut down before
	close(s.raftStopped)     // ends a goroutine that still waits for an answer of raft
	goroutines.Wait()
}

// drainTime bounds how long Run, when it ends, waits for a command that lacks a quorum.
const drainTime = 2 * time.Second

// drain waits until the goroutines have ended, and with them the last command; for at most drainTime. raft
// v1.8.0 can leave a command that is being applied without an answer when it is shut down. So raft is shut
// down while no command is being applied, if possible, and applyCommand does not rely on an answer.
func (s *Store) drain(goroutines *sync.WaitGroup) {
	finished := make(chan struct{})
	go func() { goroutines.Wait(); close(finished) }() // ends before serve returns, which waits for them too
	timer := time.NewTimer(drainTime)
	defer timer.Stop()
	select {
	case <-finished:
	case <-s.latch.Tripped():
	case <-timer.C:
	}
}

// resources is what an open store holds. close releases it in reverse order of opening.
type resources struct {
	raft    *raft.Raft
	closers []func() error
}

func (r *resources) onClose(f func() error) { r.closers = append(r.closers, f) }

func (r *resources) close() error {
	var errs []error
	for i := len(r.closers) - 1; i >= 0; i-- {
		errs = append(errs, r.closers[i]())
	}
	r.closers = nil
	return errors.Join(errs...)
}

// openResources opens the data folder, the log and the snapshots, and starts raft. Also with an error the
// result is not nil: it has what was opened before the error, for the caller to close.
func (s *Store) openResources() (*resources, error) {
	res := &resources{}
	closeStream := sync.OnceValue(s.cfg.Stream.Close)
	res.onClose(func() error { _ = closeStream(); return nil }) // raft's transport usually closed it before
	if err := makeDirs(s.cfg.Dir, logDir, streamDir, stateDir); err != nil {
		return res, err
	}
	unlock, err := lockDir(s.cfg.Dir)
	if err != nil {
		return res, err
	}
	res.onClose(func() error { unlock(); return nil })
	res.onClose(s.fsm.files.close)
	log, err := wal.Open(wal.Config{
		Dir:          filepath.Join(s.cfg.Dir, logDir),
		FS:           s.cfg.FS,
		SegmentBytes: s.cfg.Bounds.LogSegmentBytes,
		Latch:        s.latch,
		Logger:       libraryLog(s.cfg.Log),
	})
	if err != nil {
		return res, err
	}
	res.onClose(log.Close)
	dir := filepath.Join(s.cfg.Dir, stateDir)
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, keptSnapshots, libraryLog(s.cfg.Log))
	if err != nil {
		return res, err
	}
	return res, s.openRaft(res, log, guardSnapshots{snaps, filepath.Join(dir, "snapshots"), s.latch})
}

// openRaft starts raft and sets res.raft. From then on raft's goroutines call the fsm, the log and the
// snapshot store, until raft is shut down.
func (s *Store) openRaft(res *resources, log *wal.Log, snaps raft.SnapshotStore) error {
	cfg := s.raftConfig()
	transport := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:                  guardStream{s.cfg.Stream, s.latch},
		MaxPool:                 3,
		Timeout:                 10 * time.Second,
		Logger:                  cfg.Logger,
		MsgpackUseNewTimeFormat: true,
	})
	res.onClose(transport.Close)
	if s.cfg.Bootstrap {
		if err := bootstrap(cfg, log, snaps, transport); err != nil {
			return err
		}
	}
	r, err := raft.NewRaft(cfg, s.fsm, log, log, snaps, transport)
	if err != nil {
		return err
	}
	res.raft = r
	return nil
}

// bootstrap makes this replica the first and only member of a new cluster, unless it has a log or a snapshot.
//
// raft stores the first term before it writes the first entry, and refuses to bootstrap if a term is stored.
// If an earlier bootstrap stopped between the two, bootstrap sets the term back to 0; it recognizes this by
// the first term, no vote and no entry.
func bootstrap(cfg *raft.Config, log *wal.Log, snaps raft.SnapshotStore, transport raft.Transport) error {
	const firstTerm = 1
	lastIndex, err := log.LastIndex()
	if err != nil {
		return err
	}
	kept, err := snaps.List()
	if err != nil {
		return err
	}
	if lastIndex > 0 || len(kept) > 0 {
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
	if interrupted := term == firstTerm && vote == 0; interrupted {
		if err := log.SetUint64(termKey, 0); err != nil {
			return err
		}
	}
	self := raft.Configuration{Servers: []raft.Server{{ID: cfg.LocalID, Address: transport.LocalAddr()}}}
	return raft.BootstrapCluster(cfg, log, log, snaps, transport, self)
}

// Keys under which raft stores its term and the term of its last vote.
var termKey, voteTermKey = []byte("CurrentTerm"), []byte("LastVoteTerm")

func (s *Store) raftConfig() *raft.Config {
	cfg := raft.DefaultConfig()
	cfg.LocalID = raft.ServerID(s.cfg.ReplicaID)
	cfg.HeartbeatTimeout = s.cfg.Heartbeat
	cfg.ElectionTimeout = s.cfg.Heartbeat
	cfg.LeaderLeaseTimeout = s.cfg.Heartbeat
	cfg.CommitTimeout = min(cfg.CommitTimeout, s.cfg.Heartbeat)
	cfg.SnapshotThreshold = s.cfg.Bounds.SnapshotEntries
	cfg.SnapshotInterval = s.cfg.Bounds.SnapshotInterval
	cfg.TrailingLogs = s.cfg.Bounds.TrailingEntries
	cfg.Logger = libraryLog(s.cfg.Log)
	return cfg
}

// checkOpen returns a fault while the state cannot be read yet.
func (s *Store) checkOpen() error {
	select {
	case <-s.open:
		return nil
	default:
		return storeNotOpen.New("raftstore")
	}
}

// wait returns nil when ready is closed, and an error when ctx or the store ends before.
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
	if err := s.latch.Err(); err != nil {
		return err
	}
	return storeStopped.New("raftstore")
}

// openFault turns an error from opening the data folder into a fault with a remedy: Denied for wrong rights,
// Exhausted for a full disk, else Internal. An error that is a fault already is returned unchanged.
func openFault(err error) error {
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	if durable.IsDiskFull(err) {
		return wal.DiskFault(err)
	}
	notUsable := errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) ||
		errors.Is(err, syscall.ENOTDIR)
	if notUsable {
		return dataFolderDenied.Wrap(err, "raftstore.Run", fault.Args{"why": err.Error()})
	}
	return dataFolderUnreadable.Wrap(err, "raftstore.Run", fault.Args{"why": err.Error()})
}
