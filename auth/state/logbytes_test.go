package state

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft-wal/types"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

// countingFS counts the bytes that are written into the files of the raft log.
type countingFS struct {
	types.VFS
	written *atomic.Int64
}

func (c countingFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := c.VFS.Create(dir, name, size)
	return c.count(dir, f), err
}

func (c countingFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := c.VFS.OpenWriter(dir, name)
	return c.count(dir, f), err
}

func (c countingFS) count(dir string, f types.WritableFile) types.WritableFile {
	if f == nil || !strings.HasSuffix(dir, "/log") {
		return f
	}
	return countedFile{f, c.written}
}

type countedFile struct {
	types.WritableFile
	written *atomic.Int64
}

func (f countedFile) WriteAt(b []byte, at int64) (int, error) {
	f.written.Add(int64(len(b)))
	return f.WritableFile.WriteAt(b, at)
}

// What keeps repeated events out of the log must cost little beside the events: a machine sends two events a
// session, and often few at once.
func TestMachineEventsCostLittleLog(t *testing.T) {
	t.Parallel()
	var written atomic.Int64
	cfg := raftstoretest.Config(t.TempDir())
	cfg.FS = countingFS{raftstoretest.NewPowerFS(1), &written}
	store, stop := raftstoretest.Start(t, cfg)
	defer func() { must(t, stop()) }()
	s := New(store)
	const sessions, batchSize = 4000, 7
	before, eventBytes, number := written.Load(), int64(0), uint64(0)
	for range 2 * sessions / batchSize {
		var batch []audit.Event
		for range batchSize {
			number++
			e := placed("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", number)
			e.Body = []byte(`{"reason":"` + strings.Repeat("x", 200) + `"}`)
			e.SaidBy = audit.Machine{Kind: "node", ID: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Name: "web-1"}
			b, err := e.Encode()
			must(t, err)
			eventBytes += int64(len(b))
			batch = append(batch, e)
		}
		must(t, s.Events.AppendMachineEvents(t.Context(), "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", batch))
	}
	logged := written.Load() - before
	t.Logf("%d bytes of events, %d bytes of log", eventBytes, logged)
	if logged > eventBytes*5/4 {
		t.Errorf("got %d bytes of log for %d of events, want a quarter more at most", logged, eventBytes)
	}
}
