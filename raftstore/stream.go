package raftstore

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft-wal/types"

	"github.com/threshold-access/threshold/internal/fault"
)

// Record is one entry of a stream. Numbers start at 1 and have no gaps.
type Record struct {
	Number   uint64
	Revision Revision
	Time     time.Time // of the command that appended it
	Data     []byte
}

// A stream lives in segment files, each begun when the one before reached its size:
//
//	segment = magic:8 frame*
//	frame   = length:u32 crc32c(payload):u32 payload     (little endian)
//	payload = number:uvarint revision:uvarint time:uvarint data
//
// What is in a segment is a function of the log alone, so writing it again after a restart puts the same
// bytes in the same place. How far a segment reaches stands in the state, never in the file's size: what a
// crash left behind the end is not seen.
const (
	segmentMagic = "thrstrm\x01" // the last byte is the version
	frameHeader  = 8
	maxPayload   = MaxRecordBytes + 3*binary.MaxVarintLen64
	maxReadBytes = 8 << 20 // data one Read returns, unless its first record alone is more
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segment says how far one file is valid. A file belongs to exactly one stream and begins with record base.
type segment struct {
	base uint64
	size int64
}

// stream is what the state knows of one. The last segment is the one that grows. Values are immutable: append
// makes a new one.
type stream struct {
	next    uint64 // number of the record to come
	sealed  []segment
	tail    segment
	hasTail bool // false only before the first segment exists
}

func (st stream) segments() []segment {
	if !st.hasTail {
		return nil
	}
	return append(slices.Clip(st.sealed), st.tail)
}

// segmentFiles is the one place where the state machine does I/O: it appends to segment files, and makes them
// durable before a snapshot covers them (until then the log does).
type segmentFiles struct {
	fs    types.VFS
	dir   string
	limit int64 // a segment that reached this size is sealed

	mu      sync.Mutex // guards what follows; taken before a segmentFile's
	open    map[string]*segmentFile
	cursors map[string]cursor // where the last Read of a stream ended
}

type segmentFile struct {
	base  uint64
	file  types.WritableFile
	dirty bool // guarded by segmentFiles.mu

	mu     sync.Mutex // guards closed, and keeps Close away from a running Sync
	closed bool
}

type cursor struct {
	number uint64
	base   uint64
	offset int64
}

func newSegmentFiles(fs types.VFS, dir string, limit int64) *segmentFiles {
	return &segmentFiles{
		fs:      fs,
		dir:     dir,
		limit:   limit,
		open:    map[string]*segmentFile{},
		cursors: map[string]cursor{},
	}
}

func segmentName(name string, base uint64) string {
	return fmt.Sprintf("%s~%016x", strings.ReplaceAll(name, "/", "%"), base)
}

// append writes records behind st and returns the stream that has them. On an error the store is latched, and
// the old st stands.
func (s *segmentFiles) append(
	name string,
	st stream,
	at Revision,
	clock int64,
	records [][]byte,
) (stream, error) {
	if len(records) == 0 {
		return st, nil
	}
	if st.next == 0 {
		st.next = 1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.roll(name, &st); err != nil {
		return st, err
	}
	f, err := s.tailFile(name, st.tail)
	if err != nil {
		return st, err
	}
	var buf []byte
	if st.tail.size == 0 {
		buf = append(buf, segmentMagic...)
	}
	for _, data := range records {
		buf = appendFrame(buf, Record{Number: st.next, Revision: at, Data: data}, clock)
		st.next++
	}
	f.dirty = true
	if _, err := f.file.WriteAt(buf, st.tail.size); err != nil {
		return st, err
	}
	st.tail.size += int64(len(buf))
	return st, nil
}

// roll seals a full tail, durably, and begins the next segment.
func (s *segmentFiles) roll(name string, st *stream) error {
	if st.hasTail && st.tail.size < s.limit {
		return nil
	}
	if st.hasTail {
		f, err := s.tailFile(name, st.tail)
		if err != nil {
			return err
		}
		delete(s.open, name)
		if err := f.syncAndClose(); err != nil {
			return err
		}
		st.sealed = append(st.sealed, st.tail)
	}
	st.tail, st.hasTail = segment{base: st.next}, true
	return nil
}

// tailFile returns the open file of a stream's tail.
func (s *segmentFiles) tailFile(name string, tail segment) (*segmentFile, error) {
	if f := s.open[name]; f != nil && f.base == tail.base {
		return f, nil
	}
	file, err := s.openFile(segmentName(name, tail.base), tail.size == 0)
	if err != nil {
		return nil, err
	}
	f := &segmentFile{base: tail.base, file: file}
	s.open[name] = f
	return f, nil
}

func (s *segmentFiles) openFile(name string, fresh bool) (types.WritableFile, error) {
	if fresh {
		f, err := s.fs.Create(s.dir, name, 0)
		if !errors.Is(err, os.ErrExist) {
			return f, err
		}
	}
	return s.fs.OpenWriter(s.dir, name)
}

// syncAndClose makes the file durable and closes it.
func (f *segmentFile) syncAndClose() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return errors.Join(f.file.Sync(), f.file.Close())
}

func (f *segmentFile) sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil // finish synced it
	}
	return f.file.Sync()
}

// sync makes everything appended before the call durable. Appends go on meanwhile.
func (s *segmentFiles) sync() error {
	for _, f := range s.takeDirty() {
		if err := f.sync(); err != nil {
			return err
		}
	}
	return nil
}

func (s *segmentFiles) takeDirty() (dirty []*segmentFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.open {
		if f.dirty {
			f.dirty = false
			dirty = append(dirty, f)
		}
	}
	return dirty
}

// close lets go of all files; what they hold need not be durable. Appending opens them again.
func (s *segmentFiles) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, f := range s.open {
		f.mu.Lock()
		f.closed = true
		errs = append(errs, f.file.Close())
		f.mu.Unlock()
	}
	clear(s.open)
	clear(s.cursors)
	return errors.Join(errs...)
}

// verify checks that every segment a restored state relies on is there.
func (s *segmentFiles) verify(name string, st stream, present map[string]bool) error {
	for _, seg := range st.segments() {
		if seg.size > 0 && !present[segmentName(name, seg.base)] {
			return fault.New(
				fault.Internal,
				"raftstore.Run",
				"a segment file of stream "+quote(name)+" is missing: "+segmentName(name, seg.base),
				"restore the data folder from a backup, or remove this replica and join it anew",
			)
		}
	}
	return nil
}

func (s *segmentFiles) list() (map[string]bool, error) {
	names, err := s.fs.ListDir(s.dir)
	present := make(map[string]bool, len(names))
	for _, n := range names {
		present[n] = true
	}
	return present, err
}

func appendFrame(buf []byte, r Record, clock int64) []byte {
	start := len(buf)
	buf = append(buf, make([]byte, frameHeader)...)
	buf = binary.AppendUvarint(buf, r.Number)
	buf = binary.AppendUvarint(buf, uint64(r.Revision))
	buf = binary.AppendUvarint(buf, uint64(clock))
	buf = append(buf, r.Data...)
	payload := buf[start+frameHeader:]
	binary.LittleEndian.PutUint32(buf[start:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(buf[start+4:], crc32.Checksum(payload, castagnoli))
	return buf
}

// readFrame reads the next record and tells how many bytes it took.
func readFrame(r io.Reader) (Record, int64, error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Record{}, 0, err
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size > maxPayload {
		return Record{}, 0, errMalformed
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		return Record{}, 0, errMalformed
	}
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return Record{}, 0, errMalformed
	}
	p := reader{buf: payload}
	rec := Record{Number: p.uint(), Revision: Revision(p.uint()), Time: time.Unix(0, int64(p.uint()))}
	rec.Data = p.buf
	return rec, frameHeader + int64(size), p.err
}

// read returns up to limit records of st from number from on, fewer when they are large.
func (s *segmentFiles) read(name string, st stream, from uint64, limit int) ([]Record, error) {
	from = max(from, 1)
	segs := st.segments()
	i, _ := slices.BinarySearchFunc(segs, from+1, func(seg segment, n uint64) int {
		if seg.base < n {
			return -1
		}
		return 1
	})
	var out []Record
	size := 0
	for i = max(i-1, 0); i < len(segs) && from < st.next && len(out) < limit && size < maxReadBytes; i++ {
		recs, err := s.readSegment(name, segs[i], from, limit-len(out), maxReadBytes-size)
		if err != nil {
			return nil, fault.Wrap(
				err,
				fault.Internal,
				"raftstore.Read",
				"stream "+quote(name)+" can not be read on this replica",
				"check the disk, then restore the data folder from a backup",
			)
		}
		for _, r := range recs {
			size += len(r.Data)
		}
		out, from = append(out, recs...), from+uint64(len(recs))
	}
	return out, nil
}

func (s *segmentFiles) readSegment(
	name string,
	seg segment,
	from uint64,
	limit, bytesLimit int,
) ([]Record, error) {
	f, err := s.fs.OpenReader(s.dir, segmentName(name, seg.base))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var magic [len(segmentMagic)]byte
	if _, err := f.ReadAt(magic[:], 0); err != nil {
		return nil, err
	}
	if !bytes.Equal(magic[:], []byte(segmentMagic)) {
		return nil, errMalformed
	}
	at := s.cursor(name, seg.base, from)
	r := bufio.NewReaderSize(io.NewSectionReader(f, at.offset, seg.size-at.offset), 64<<10)
	var out []Record
	for at.offset < seg.size && len(out) < limit && bytesLimit > 0 {
		rec, n, err := readFrame(r)
		if err != nil {
			return nil, err
		}
		if rec.Number != at.number {
			return nil, errMalformed
		}
		at.number, at.offset = at.number+1, at.offset+n
		if rec.Number >= from {
			out, bytesLimit = append(out, rec), bytesLimit-len(rec.Data)
		}
	}
	s.setCursor(name, at)
	return out, nil
}

// cursor returns the known place in the segment nearest before record number from.
func (s *segmentFiles) cursor(name string, base, from uint64) cursor {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.cursors[name]; ok && c.base == base && c.number <= from {
		return c
	}
	return cursor{number: base, base: base, offset: int64(len(segmentMagic))}
}

func (s *segmentFiles) setCursor(name string, c cursor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cursors[name] = c
}
