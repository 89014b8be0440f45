package raftstore

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"os"
	"time"

	walsegment "github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"

	"github.com/threshold-access/threshold/internal/fault"
)

// raft-wal v0.4.0 does not survive every crash around the end of a log file:
//
//   - Killed (or closed) after the write that sealed the last file, but before its metadata said so, it opens again and then answers
//     every append with "segment is sealed".
//   - It does the same when that sealing write was torn, because it remembers the seal of a write it rolled back.
//   - It takes frames behind the last commit as proof that this commit is whole, though they may be left from a crash before.
//
// mendingMeta mends the last file before raft-wal looks at it: what is behind the last whole commit was never
// acknowledged and becomes zeros, and a whole seal is entered into the metadata, as raft-wal would have done.
type mendingMeta struct {
	types.MetaStore
	fs types.VFS
}

func (m mendingMeta) Load(dir string) (types.PersistentState, error) {
	state, err := m.MetaStore.Load(dir)
	if err != nil || len(state.Segments) == 0 {
		return state, err
	}
	tail := &state.Segments[len(state.Segments)-1]
	if !tail.SealTime.IsZero() {
		return state, nil
	}
	found, err := mendTail(m.fs, dir, walsegment.FileName(*tail))
	if err != nil || found.indexStart == 0 {
		return state, err
	}
	tail.SealTime, tail.IndexStart, tail.MaxIndex = time.Now(), found.indexStart, tail.BaseIndex+found.entries-1
	next := types.SegmentInfo{
		ID:         state.NextSegmentID,
		BaseIndex:  tail.MaxIndex + 1,
		MinIndex:   tail.MaxIndex + 1,
		SizeLimit:  tail.SizeLimit,
		Codec:      tail.Codec,
		CreateTime: time.Now(),
	}
	state.NextSegmentID++
	state.Segments = append(state.Segments, next) // raft-wal makes the file when it finds none
	return state, m.CommitState(state)
}

// logTail is what a log file holds up to its last whole commit.
type logTail struct {
	end        int64  // bytes
	entries    uint64 // log entries
	indexStart uint64 // where the index of a sealed file begins; 0: it is not sealed
}

func mendTail(fs types.VFS, dir, name string) (logTail, error) {
	f, err := fs.OpenWriter(dir, name)
	if errors.Is(err, os.ErrNotExist) {
		return logTail{}, nil // nothing was ever acknowledged from it
	}
	if err != nil {
		return logTail{}, err
	}
	data, err := io.ReadAll(io.NewSectionReader(f, 0, math.MaxInt64))
	var found logTail
	if err == nil {
		found, err = scanTail(data)
	}
	if err == nil {
		err = zeroRest(f, data, found.end)
	}
	return found, errors.Join(err, f.Close())
}

// raft-wal's file format (segment/format.go): a header, then frames, padded to 8 bytes. A commit frame
// carries the CRC-32C of all bytes since the commit before it.
const (
	logHeaderBytes = 32
	logFrameHeader = 8
	logFrameEntry  = 1
	logFrameIndex  = 2
	logFrameCommit = 3
)

// scanTail finds the last whole commit. Only the last write before a crash can be torn, so a whole commit
// behind a broken one is damage of another kind, and refused.
func scanTail(data []byte) (logTail, error) {
	var good, now logTail
	broken := false
	batch := 0 // where the bytes of the next commit begin
	for off := logHeaderBytes; off+logFrameHeader <= len(data); {
		kind, size := data[off], int64(binary.LittleEndian.Uint32(data[off+4:]))
		switch kind {
		case logFrameEntry:
			now.entries++
		case logFrameIndex:
			now.indexStart = uint64(off) + logFrameHeader
		case logFrameCommit:
			whole := crc32.Checksum(data[batch:off], castagnoli) == uint32(size)
			size = 0
			if whole && broken {
				return good, damagedLog()
			}
			batch, broken = off+logFrameHeader, !whole
			if whole {
				now.end = int64(batch)
				good = now
			}
		default:
			return good, checkRest(data, good)
		}
		if size > int64(len(data)-off) {
			return good, checkRest(data, good)
		}
		off += logFrameHeader + int(size+7)&^7
	}
	return good, checkRest(data, good)
}

// checkRest looks at what is behind the last commit that was reached. A torn write is one batch at most; a
// whole one behind another commit shows that what was acknowledged is damaged, and must not be taken for
// never written.
func checkRest(data []byte, good logTail) error {
	batch := 0 // behind the last frame that looks like a commit
	for off := max(int(good.end), logHeaderBytes); off+logFrameHeader <= len(data); off += logFrameHeader {
		if data[off] != logFrameCommit || data[off+1]|data[off+2]|data[off+3] != 0 {
			continue
		}
		if batch > 0 &&
			crc32.Checksum(data[batch:off], castagnoli) == binary.LittleEndian.Uint32(data[off+4:]) {
			return damagedLog()
		}
		batch = off + logFrameHeader
	}
	return nil
}

func damagedLog() error {
	return fault.New(
		fault.Internal,
		"raftstore.Run",
		"the log is damaged before its end",
		"check the disk, then restore this replica from a backup",
	)
}

// zeroRest overwrites with zeros, durably, what is not yet zero behind end.
func zeroRest(f types.WritableFile, data []byte, end int64) error {
	const block = 4096
	var zeros [block]byte
	wrote := false
	for off := end; off < int64(len(data)); off += block {
		part := data[off:min(off+block, int64(len(data)))]
		if string(part) == string(zeros[:len(part)]) {
			continue
		}
		if _, err := f.WriteAt(zeros[:len(part)], off); err != nil {
			return err
		}
		wrote = true
	}
	if !wrote {
		return nil
	}
	return f.Sync()
}
