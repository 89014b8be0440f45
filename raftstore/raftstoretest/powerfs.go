package raftstoretest

import (
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hashicorp/raft-wal/types"
)

// ErrPowerLost is the usual error of a PowerFS whose power is lost.
var ErrPowerLost = errors.New("power lost")

// blockBytes is how much the disk writes at once. Each block that was not synced is kept, lost or torn,
// whatever happens to the others.
const blockBytes = 4096

// PowerFS is a file system in memory that loses what was not synced when its power is lost. It has the
// guarantees of wal.NewFS: the first Sync of an open file makes its name durable too, a Delete is durable
// when it returns, and nothing else is.
type PowerFS struct {
	mu          sync.Mutex // guards the fields below, and the files
	rand        *rand.Rand
	files       map[string]*powerFile // by path
	changesLeft int                   // changes that still succeed; negative means all do
	failure     error                 // what every change after those returns
	restores    int                   // calls of Restore; a handle that was opened before the last one fails
}

// powerFile is the content of a file, in memory and on the disk.
type powerFile struct {
	now         []byte         // what reads return
	durable     []byte         // what was synced
	dirty       map[int64]bool // numbers of blocks of now that were not synced
	nameDurable bool           // the directory entry was synced
}

// NewPowerFS makes an empty file system. What it loses follows from seed.
func NewPowerFS(seed uint64) *PowerFS {
	return &PowerFS{rand: rand.New(rand.NewPCG(seed, seed)), files: map[string]*powerFile{}, changesLeft: -1}
}

// FailAfter lets n more changes succeed. Each change after those fails with err, until Restore; a write that
// fails may be done in part. A negative n lets all changes succeed.
func (p *PowerFS) FailAfter(n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changesLeft, p.failure = n, err
}

// Restore makes the file system what a disk has after the power was lost and is back. Every byte that was
// synced is there. A block that was not synced is there, lost or torn, at random. A file whose name was not
// synced is gone or not, at random. Handles that were opened before can no longer write.
func (p *PowerFS) Restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changesLeft, p.failure = -1, nil
	p.restores++
	for _, name := range slices.Sorted(maps.Keys(p.files)) {
		f := p.files[name]
		if !f.nameDurable && p.rand.IntN(2) == 0 {
			delete(p.files, name)
			continue
		}
		f.losePower(p.rand)
	}
}

// losePower makes the content of the file what it is after the power was lost: the synced bytes, and of each
// block that was not synced all, nothing or the first part.
func (f *powerFile) losePower(r *rand.Rand) {
	kept := slices.Clone(f.durable)
	for _, block := range slices.Sorted(maps.Keys(f.dirty)) { // sorted, so that the seed decides
		from, to := block*blockBytes, min((block+1)*blockBytes, int64(len(f.now)))
		switch r.IntN(3) {
		case 0: // lost
			continue
		case 1: // torn
			to = from + r.Int64N(to-from)
		}
		if int64(len(kept)) < to {
			kept = append(kept, make([]byte, to-int64(len(kept)))...)
		}
		copy(kept[from:to], f.now[from:to])
	}
	f.now, f.durable, f.dirty, f.nameDurable = kept, slices.Clone(kept), map[int64]bool{}, true
}

// countChange counts one change and returns the error with which it fails, or nil. The caller holds mu.
func (p *PowerFS) countChange() error {
	if p.changesLeft == 0 {
		return p.failure
	}
	if p.changesLeft > 0 {
		p.changesLeft--
	}
	return nil
}

// ListDir returns the names of the files of dir, in order. Every folder exists.
func (p *PowerFS) ListDir(dir string) (names []string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, path := range slices.Sorted(maps.Keys(p.files)) {
		if filepath.Dir(path) == filepath.Clean(dir) {
			names = append(names, filepath.Base(path))
		}
	}
	return names, nil
}

// Create makes a file of zeros. Neither name nor size is durable before its first Sync.
func (p *PowerFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	path := filepath.Join(dir, name)
	if p.files[path] != nil {
		return nil, os.ErrExist
	}
	if err := p.countChange(); err != nil {
		return nil, err
	}
	p.files[path] = &powerFile{now: make([]byte, size), dirty: map[int64]bool{}}
	return &powerHandle{p, p.files[path], p.restores}, nil
}

// Delete removes a file, durably.
func (p *PowerFS) Delete(dir, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	path := filepath.Join(dir, name)
	if p.files[path] == nil {
		return os.ErrNotExist
	}
	if err := p.countChange(); err != nil {
		return err
	}
	delete(p.files, path)
	return nil
}

// OpenReader opens a file to read.
func (p *PowerFS) OpenReader(dir, name string) (types.ReadableFile, error) {
	return p.openHandle(dir, name)
}

// OpenWriter opens a file to read and write.
func (p *PowerFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	return p.openHandle(dir, name)
}

// openHandle opens a file that exists.
func (p *PowerFS) openHandle(dir, name string) (*powerHandle, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	file := p.files[filepath.Join(dir, name)]
	if file == nil {
		return nil, os.ErrNotExist
	}
	return &powerHandle{p, file, p.restores}, nil
}

// powerHandle is an open file.
type powerHandle struct {
	fs       *PowerFS
	file     *powerFile
	restores int // fs.restores when it was opened
}

func (h *powerHandle) Close() error { return nil }

func (h *powerHandle) ReadAt(b []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if off >= int64(len(h.file.now)) {
		return 0, io.EOF
	}
	n := copy(b, h.file.now[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes b, but not durably. A write that FailAfter lets fail returns an error and may have written
// the first part of b.
func (h *powerHandle) WriteAt(b []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.restores != h.fs.restores {
		return 0, ErrPowerLost
	}
	if err := h.fs.countChange(); err != nil {
		if len(b) > 0 {
			h.file.write(b[:h.fs.rand.IntN(len(b))], off)
		}
		return 0, err
	}
	h.file.write(b, off)
	return len(b), nil
}

// write changes the content in memory, and remembers which blocks are not synced.
func (f *powerFile) write(b []byte, off int64) {
	if len(b) == 0 {
		return
	}
	end := off + int64(len(b))
	if grow := end - int64(len(f.now)); grow > 0 {
		f.now = append(f.now, make([]byte, grow)...)
	}
	copy(f.now[off:], b)
	for block := off / blockBytes; block <= (end-1)/blockBytes; block++ {
		f.dirty[block] = true
	}
}

// Sync makes the content of the file and its name durable.
func (h *powerHandle) Sync() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.restores != h.fs.restores {
		return ErrPowerLost
	}
	if err := h.fs.countChange(); err != nil {
		return err
	}
	file := h.file
	if grow := len(file.now) - len(file.durable); grow > 0 {
		file.durable = append(file.durable, make([]byte, grow)...)
	}
	for block := range file.dirty {
		from, to := block*blockBytes, min((block+1)*blockBytes, int64(len(file.now)))
		copy(file.durable[from:to], file.now[from:to])
	}
	file.dirty, file.nameDurable = map[int64]bool{}, true
	return nil
}
