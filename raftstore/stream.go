package raftstore

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
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
//	segment = magic:8 base:u64 digest:32 frame*          (little endian)
//	frame   = length:u32 crc32c(payload):u32 payload     (little endian)
//	payload = number:uvarint revision:uvarint time:uvarint data
//
// A stream has a running digest over all its records from the first on:
//
//	digest of no record = SHA-256("threshold stream v1" 0x00 name)
//	next digest         = SHA-256(digest payload)
//
// The state has it for the end of every segment, and a segment's header for its beginning. So a segment can
// be checked alone, and the records that remain after older ones were dropped can be checked against the
// digest of those.
//
// The content of a segment follows from the log alone, so applying an entry again after a restart writes the
// same bytes to the same place. The length of a segment is kept in the state and is not taken from the file's
// size, so what a crash left behind the end is never read.
const (
	segmentMagic  = "thrstrm\x01" // the last byte is the version
	segmentHeader = len(segmentMagic) + 8 + digestBytes
	frameHeader   = 8
	maxPayload    = MaxRecordBytes + 3*binary.MaxVarintLen64
	maxReadBytes  = 8 << 20 // data that one Read returns, unless its first record alone is larger
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// digestBytes is the size of a Digest.
const digestBytes = sha256.Size

// Digest is the running SHA-256 of a stream, up to some record.
type Digest [digestBytes]byte

// String is the digest in hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// firstDigest is the digest of a stream without records.
func firstDigest(name string) Digest {
	return sha256.Sum256(append([]byte("threshold stream v1\x00"), name...))
}

// next is the digest after one more record.
func (d Digest) next(payload []byte) (out Digest) {
	h := sha256.New()
	h.Write(d[:])
	h.Write(payload)
	h.Sum(out[:0])
	return out
}

// segment is one file of a stream. A segment that has reached the size limit is sealed: it never changes
// again.
type segment struct {
	base   uint64 // number of its first record
	size   int64  // valid bytes; what follows them in the file is left over from a crash and does not count
	newest int64  // time of its last record, ns since 1970
	end    Digest // of the stream up to its last record
}

// stream is what the state has of one stream. Values are immutable: append makes a new one.
type stream struct {
	nextNumber uint64    // number of the next record; 0 means 1, before the first append
	dropped    Digest    // of the stream up to the first segment
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

// digestBefore is the digest of the stream up to the segment of index i in segments.
func (st stream) digestBefore(i int) Digest {
	if i == 0 {
		return st.dropped
	}
	return st.sealed[i-1].end
}

// trim returns the stream without the segments whose records are all below the number before, but with its
// last segment in any case.
func (st stream) trim(before uint64) stream {
	segs := st.segments()
	n := 0 // how many to drop
	for n+1 < len(segs) && segs[n+1].base <= before {
		n++
	}
	if n > 0 {
		st.dropped, st.sealed = st.sealed[n-1].end, slices.Clone(st.sealed[n:])
	}
	return st
}

// first is the number of the first record that is kept, and 1 before the first append.
func (st stream) first() uint64 {
	if segs := st.segments(); len(segs) > 0 {
		return segs[0].base
	}
	return 1
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
	kept    map[string]uint64       // by stream: the first record of the last snapshot
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
		kept:    map[string]uint64{},
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
		next.nextNumber, next.dropped = 1, firstDigest(name)
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
		buf = appendSegmentHeader(buf, next.tail)
	}
	for _, data := range records {
		frame := len(buf)
		buf = appendFrame(buf, Record{Number: next.nextNumber, Revision: at, Data: data}, clock)
		next.tail.end = next.tail.end.next(buf[frame+frameHeader:])
		next.nextNumber++
	}
	next.tail.newest = clock
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
	// A segment without records ends with the digest before it.
	st.tail, st.hasTail = segment{base: st.nextNumber, end: st.digestBefore(len(st.sealed))}, true
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
	clear(s.kept)
	return errors.Join(errs...)
}

// verify returns a fault when the file of a segment of the stream is not in present, the names of all files.
func (s *segmentFiles) verify(name string, st stream, present map[string]bool) error {
	for _, seg := range st.segments() {
		if seg.size > 0 && !present[segmentName(name, seg.base)] {
			return segmentMissing.New("raftstore.Run", fault.Args{
				"stream": name,
				"file":   segmentName(name, seg.base),
			})
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

// segmentOf returns the index of the segment that has record number from, or would have it.
func segmentOf(segs []segment, from uint64) int {
	// firstBehind is the first segment that begins behind record from, so the record is in the one before.
	// The comparison never says "equal": the search then ends at the first segment for which it says 1.
	firstBehind, _ := slices.BinarySearchFunc(segs, from+1, func(seg segment, number uint64) int {
		if seg.base < number {
			return -1
		}
		return 1
	})
	return max(firstBehind-1, 0)
}

// appendSegmentHeader appends the header of a segment that has no records yet.
func appendSegmentHeader(buf []byte, seg segment) []byte {
	buf = append(buf, segmentMagic...)
	buf = binary.LittleEndian.AppendUint64(buf, seg.base)
	return append(buf, seg.end[:]...)
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
	payload, err := readPayload(r)
	if err != nil {
		return Record{}, 0, err
	}
	fields := reader{buf: payload}
	rec.Number, rec.Revision = fields.uint(), Revision(fields.uint())
	rec.Time = time.Unix(0, int64(fields.uint()))
	rec.Data = fields.buf // what is left
	return rec, frameHeader + int64(len(payload)), fields.err
}

// readPayload reads the next frame and returns its payload.
func readPayload(r io.Reader) ([]byte, error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size > maxPayload {
		return nil, errMalformed
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		return nil, errMalformed
	}
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return nil, errMalformed
	}
	return payload, nil
}

// read returns up to limit records of the stream, beginning with number from, or with the first that is kept.
// It returns fewer when their data reaches maxReadBytes, and none when from is behind the last record.
func (s *segmentFiles) read(name string, st stream, from uint64, limit int) ([]Record, error) {
	from = max(from, st.first())
	segs := st.segments()
	var out []Record
	size := 0
	for i := segmentOf(segs, from); i < len(segs); i++ {
		if from >= st.nextNumber || len(out) >= limit || size >= maxReadBytes {
			break
		}
		at := segmentAt{segment: segs[i], stream: name, before: st.digestBefore(i)}
		recs, err := s.readSegment(at, from, limit-len(out), maxReadBytes-size)
		if err != nil {
			return nil, streamUnreadable.Wrap(err, "raftstore.Read", fault.Args{"stream": name})
		}
		for _, rec := range recs {
			size += len(rec.Data)
		}
		out, from = append(out, recs...), from+uint64(len(recs))
	}
	return out, nil
}

// segmentAt is a segment at its place in a stream.
type segmentAt struct {
	segment
	stream string
	before Digest // of the stream up to its first record
}

// openSegment opens the file of a segment to read, and checks its header.
func (s *segmentFiles) openSegment(seg segmentAt) (types.ReadableFile, error) {
	file, err := s.fs.OpenReader(s.dir, segmentName(seg.stream, seg.base))
	if err != nil {
		return nil, err
	}
	var header [segmentHeader]byte
	if _, err := file.ReadAt(header[:], 0); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	want := appendSegmentHeader(nil, segment{base: seg.base, end: seg.before})
	switch magic := header[:len(segmentMagic)]; {
	case !bytes.Equal(magic, want[:len(segmentMagic)]):
		return nil, errors.Join(fmt.Errorf("it begins with %q: %w", magic, errUnsupported), file.Close())
	case !bytes.Equal(header[:], want):
		return nil, errors.Join(errMalformed, file.Close())
	}
	return file, nil
}

// checkHeader returns an error if the header of a segment is not what the state says.
func (s *segmentFiles) checkHeader(seg segmentAt) error {
	file, err := s.openSegment(seg)
	if err != nil {
		return err
	}
	return file.Close()
}

// readSegment returns records of one segment, beginning with number from. It ends at the end of the segment,
// at limit records, or when their data has reached bytesLimit bytes. It remembers where it ended, so that the
// next read of the stream need not decode the segment from its start.
func (s *segmentFiles) readSegment(seg segmentAt, from uint64, limit, bytesLimit int) ([]Record, error) {
	file, err := s.openSegment(seg)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	place := s.findCursor(seg.stream, seg.base, from)
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
	s.setCursor(seg.stream, place)
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
	return cursor{number: base, base: base, offset: int64(segmentHeader)}
}

// setCursor remembers where a read of the stream ended.
func (s *segmentFiles) setCursor(name string, c cursor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cursors[name] = c
}
