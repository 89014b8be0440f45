package raftstore

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
)

// TrimPoint is a place in a stream at which its oldest records may be dropped.
type TrimPoint struct {
	Before uint64 // the number of the first record that stays
	Digest Digest // of the stream up to there
}

// FindTrimPoint returns the place before which every record of the stream is older than t. ok is false if no
// whole segment is that old.
func (s *Store) FindTrimPoint(
	ctx context.Context, name string, t time.Time,
) (p TrimPoint, ok bool, err error) {
	if err := s.checkReadable(ctx); err != nil {
		return TrimPoint{}, false, err
	}
	st, _ := s.fsm.state.Load().streams.Get([]byte(name))
	n := 0 // how many segments are old
	for n < len(st.sealed) && st.sealed[n].newest < t.UnixNano() {
		n++
	}
	if n == 0 {
		return TrimPoint{}, false, nil
	}
	return TrimPoint{Before: st.segments()[n].base, Digest: st.digestBefore(n)}, true, nil
}

// VerifySegment checks the segment that has record number from, or the first that is kept, against the
// digests of the state. next is the number of the first record behind it, and 0 if it is the last segment. A
// segment that was changed, or cannot be read, is a fault; next is then set all the same.
func (s *Store) VerifySegment(ctx context.Context, name string, from uint64) (next uint64, err error) {
	if err := s.checkReadable(ctx); err != nil {
		return from, err
	}
	st, _ := s.fsm.state.Load().streams.Get([]byte(name))
	segs := st.segments()
	if len(segs) == 0 {
		return 0, nil
	}
	i := segmentOf(segs, from)
	if i+1 < len(segs) {
		next = segs[i+1].base
	}
	err = s.fsm.files.checkDigest(segmentAt{segment: segs[i], stream: name, before: st.digestBefore(i)})
	now, _ := s.fsm.state.Load().streams.Get([]byte(name))
	if dropped := segs[i].base < now.first(); dropped { // while it was read
		return next, nil
	}
	return next, segmentDamaged.Wrap(err, "raftstore.VerifySegment", fault.Args{
		"stream": name,
		"file":   segmentName(name, segs[i].base),
	})
}

// keep remembers where the streams of a state begin that raft has a snapshot of.
func (s *segmentFiles) keep(snapshot *state) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.kept)
	walk(snapshot.streams, func(name []byte, st stream) { s.kept[string(name)] = st.first() })
}

// deleteDropped deletes the files of segments that were dropped before the last snapshot but one. raft keeps
// two snapshots and may go back to the older one, which needs its segments. snapshot is the newest, which has
// just become durable.
func (s *segmentFiles) deleteDropped(snapshot *state) error {
	names, err := s.fs.ListDir(s.dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	var unneeded []string
	for _, file := range names {
		if name, base, ok := parseSegmentName(file); ok && base < s.kept[name] {
			unneeded = append(unneeded, file)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, file := range unneeded {
		errs = append(errs, s.fs.Delete(s.dir, file))
	}
	s.keep(snapshot)
	return errors.Join(errs...)
}

// parseSegmentName is the inverse of segmentName.
func parseSegmentName(file string) (name string, base uint64, ok bool) {
	name, number, found := strings.Cut(file, "~")
	base, err := strconv.ParseUint(number, 16, 64)
	return strings.ReplaceAll(name, "%", "/"), base, found && err == nil
}

// checkDigest returns an error if the records of a segment, as they are in its file, do not lead from the
// digest before it to the one at its end.
func (s *segmentFiles) checkDigest(seg segmentAt) error {
	file, err := s.openSegment(seg)
	if err != nil {
		return err
	}
	defer file.Close()
	const begin = int64(segmentHeader)
	r := bufio.NewReaderSize(io.NewSectionReader(file, begin, seg.size-begin), 64<<10)
	digest := seg.before
	for offset := begin; offset < seg.size; {
		payload, err := readPayload(r)
		if err != nil {
			return err
		}
		digest, offset = digest.next(payload), offset+frameHeader+int64(len(payload))
	}
	if digest != seg.end {
		return errMalformed
	}
	return nil
}
