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

// A stream is kept in segment files. A new file begins when the last one has reached the size limit:
//
//	segment = magic:8 frame*
//	frame   = length:u32 crc32c(payload):u32 payload     (little endian)
//	payload = number:uvarint revision:uvarint time:uvarint data
//
// The content of a segment follows from the log alone, so applying an entry again after a restart writes the
// same bytes to the same place. The length of a segment is kept in the state and is not taken from the file's
// size, so what a crash left behind the end is never read.
const (
	segmentMagic = "thrstrm\x01" // the last byte is the version
	frameHeader  = 8
	maxPayload   = MaxRecordBytes + 3*binary.MaxVarintLen64
	maxReadBytes = 8 << 20 // data that one Read returns, unless its first record alone is larger
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segment is one file of a stream. A segment that has reached the size limit is sealed: it never changes
// again.
type segment struct {
	base uint64 // number of its first record
	size int64  // valid bytes; what follows them in the file is left over from a crash and does not count
}

// stream is what the state has of one stream. Values are immutable: append makes a new one.
type stream struct {
	nextNumber uint64    // number of the next record; 0 means 1, before the first append
	sealed     []segment // all but the last, in order
	tail       segment   // the last, which grows
	hasTail    bool      // false only before the first segment exists
}

// segments are all segments of the stream in order, in a new slice.
func (st stream) segments() []segment {
	if !st.hasTail {
		return nil
	}
	return append(slices.Clip(st.sealed), st.tail)
}

// segmentFiles is the only place where the state machine does I/O. It appends to segment files, and makes
// them durable before a snapshot covers them. Until then the log holds the records.
//
// fsm.Apply appends from one goroutine. A snapshot may sync at the same time, and any goroutine may read.
type segmentFiles struct {
	fs    types.VFS
	dir   string
	limit int64 // a segment that reached this size is sealed

	// mu guards the fields below and each segmentFile.dirty. It is taken before a segmentFile.mu.
	mu      sync.Mutex
	open    map[string]*segmentFile // by stream: the file of its tail
	cursors map[string]cursor       // by stream: where its last Read ended
}

// segmentFile is an open file of a stream's tail.
type segmentFile struct {
	base  uint64
	file  types.WritableFile
	dirty bool // has bytes that are not synced; guarded by segmentFiles.mu

	mu     sync.Mutex // guards closed; held during Sync, so that the file is not closed meanwhile
	closed bool
}

// cursor is a place in a stream at which a record begins.
type cursor struct {
	number uint64 // of the record
	base   uint64 // of its segment
	offset int64  // in the segment's file, in bytes
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

// segmentName is the file name of a segment. '%' and '~' do not occur in stream names (checkStream).
func segmentName(name string, base uint64) string {
	return fmt.Sprintf("%s~%016x", strings.ReplaceAll(name, "/", "%"), base)
}

// append writes records to the end of the stream and returns the stream with them. The records are not
// durable yet: until sync, the raft log holds them. old stays valid. After an error the latch has tripped,
// and old is still what the state has.
func (s *segmentFiles) append(
	name string,
	old stream,
	at Revision,
	clock int64, // the leader's clock in the command, ns since 1970
	records [][]byte,
) (stream, error) {
	next := old
	if len(records) == 0 {
		return next, nil
	}
	if next.nextNumber == 0 {
		next.nextNumber = 1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.roll(name, &next); err != nil {
		return next, err
	}
	file, err := s.tailFile(name, next.tail)
	if err != nil {
		return next, err
	}
	var buf []byte
	if next.tail.size == 0 {
		buf = append(buf, segmentMagic...)
	}
	for _, data := range records {
		buf = appendFrame(buf, Record{Number: next.nextNumber, Revision: at, Data: data}, clock)
		next.nextNumber++
	}
	file.dirty = true // also if the write fails: some bytes may be in the file
	if _, err := file.file.WriteAt(buf, next.tail.size); err != nil {
		return next, err
	}
	next.tail.size += int64(len(buf))
	return next, nil
}

// roll makes sure that the stream has a tail with room. It seals a tail that has reached the size limit,
// durably, and begins the next segment. The caller holds mu.
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
	st.tail, st.hasTail = segment{base: st.nextNumber}, true
	return nil
}

// tailFile returns the file of a stream's tail, and opens or creates it if it is not open. The caller holds
// mu.
func (s *segmentFiles) tailFile(name string, tail segment) (*segmentFile, error) {
	if f := s.open[name]; f != nil && f.base == tail.base {
		return f, nil
	}
	isNew := tail.size == 0
	file, err := s.openFile(segmentName(name, tail.base), isNew)
	if err != nil {
		return nil, err
	}
	f := &segmentFile{base: tail.base, file: file}
	s.open[name] = f
	return f, nil
}

// openFile opens a segment file to write. isNew says that the segment has no bytes yet. Its file may exist
// nevertheless: after a crash, the log entry that created it is applied again.
func (s *segmentFiles) openFile(name string, isNew bool) (types.WritableFile, error) {
	if isNew {
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

// sync makes the file's bytes durable. A snapshot calls it while Apply may append to the same file or close
// it.
func (f *segmentFile) sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil // syncAndClose synced it, or close has no need to
	}
	return f.file.Sync()
}

// sync makes everything durable that was appended before the call. Appends may go on meanwhile.
func (s *segmentFiles) sync() error {
	for _, f := range s.takeDirty() {
		if err := f.sync(); err != nil {
			return err
		}
	}
	return nil
}

// takeDirty returns the files with bytes that are not synced, and marks them clean.
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

// close closes all files without a sync. append opens them again when it needs them.
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

// verify returns a fault when the file of a segment of the stream is not in present, the names of all files.
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

// list returns the names of all segment files.
func (s *segmentFiles) list() (map[string]bool, error) {
	names, err := s.fs.ListDir(s.dir)
	present := make(map[string]bool, len(names))
	for _, n := range names {
		present[n] = true
	}
	return present, err
}

// appendFrame appends a record as a frame. r.Time is not used: clock has the time in ns since 1970.
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

// readFrame reads the next frame and returns its record and its length in bytes. A frame that is not well
// formed or whose checksum is wrong is errMalformed.
func readFrame(r io.Reader) (rec Record, length int64, err error) {
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
	fields := reader{buf: payload}
	rec.Number, rec.Revision = fields.uint(), Revision(fields.uint())
	rec.Time = time.Unix(0, int64(fields.uint()))
	rec.Data = fields.buf // what is left
	return rec, frameHeader + int64(size), fields.err
}

// read returns up to limit records of the stream, beginning with number from (0 means 1). It returns fewer
// when their data reaches maxReadBytes, and none when from is behind the last record.
func (s *segmentFiles) read(name string, st stream, from uint64, limit int) ([]Record, error) {
	from = max(from, 1)
	segs := st.segments()
	// firstBehind is the first segment that begins behind record from, so the record is in the one before.
	// The comparison never says "equal": the search then ends at the first segment for which it says 1.
	firstBehind, _ := slices.BinarySearchFunc(segs, from+1, func(seg segment, number uint64) int {
		if seg.base < number {
			return -1
		}
		return 1
	})
	var out []Record
	size := 0
	for i := max(firstBehind-1, 0); i < len(segs); i++ {
		if from >= st.nextNumber || len(out) >= limit || size >= maxReadBytes {
			break
		}
		recs, err := s.readSegment(name, segs[i], from, limit-len(out), maxReadBytes-size)
		if err != nil {
			return nil, fault.Wrap(
				err,
				fault.Internal,
				"raftstore.Read",
				"stream "+quote(name)+" cannot be read on this replica",
				"check the disk, then restore the data folder from a backup",
			)
		}
		for _, rec := range recs {
			size += len(rec.Data)
		}
		out, from = append(out, recs...), from+uint64(len(recs))
	}
	return out, nil
}

// readSegment returns records of one segment, beginning with number from. It ends at the end of the segment,
// at limit records, or when their data has reached bytesLimit bytes. It remembers where it ended, so that the
// next read of the stream need not decode the segment from its start.
func (s *segmentFiles) readSegment(
	name string,
	seg segment,
	from uint64,
	limit, bytesLimit int,
) ([]Record, error) {
	file, err := s.fs.OpenReader(s.dir, segmentName(name, seg.base))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var magic [len(segmentMagic)]byte
	if _, err := file.ReadAt(magic[:], 0); err != nil {
		return nil, err
	}
	if !bytes.Equal(magic[:], []byte(segmentMagic)) {
		return nil, errMalformed
	}
	place := s.findCursor(name, seg.base, from)
	r := bufio.NewReaderSize(io.NewSectionReader(file, place.offset, seg.size-place.offset), 64<<10)
	var out []Record
	bytesLeft := bytesLimit
	for place.offset < seg.size && len(out) < limit && bytesLeft > 0 {
		rec, length, err := readFrame(r)
		if err != nil {
			return nil, err
		}
		if rec.Number != place.number {
			return nil, errMalformed
		}
		place.number, place.offset = place.number+1, place.offset+length
		if rec.Number >= from { // else it is between the cursor and from
			out, bytesLeft = append(out, rec), bytesLeft-len(rec.Data)
		}
	}
	s.setCursor(name, place)
	return out, nil
}

// findCursor returns a place in the segment at or before record number from: where the last read of the
// stream ended, if that is such a place, else the start of the segment.
func (s *segmentFiles) findCursor(name string, base, from uint64) cursor {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.cursors[name]; ok && c.base == base && c.number <= from {
		return c
	}
	return cursor{number: base, base: base, offset: int64(len(segmentMagic))}
}

// setCursor remembers where a read of the stream ended.
func (s *segmentFiles) setCursor(name string, c cursor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cursors[name] = c
}
