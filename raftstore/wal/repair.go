package wal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"os"
	"time"

	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"

	"github.com/threshold-access/threshold/internal/fault"
)

// raft-wal v0.4.0 does not survive every crash around the end of a segment file:
//
//   - Killed or closed after the write that seals the last file, but before its metadata records the seal, it
//     opens again and then answers every append with "segment is sealed".
//   - The same happens when the sealing write was torn, because it remembers the seal of a write that it has
//     rolled back.
//   - It takes frames behind the last commit as proof that this commit is complete, though they may be left
//     over from an earlier crash.
//
// repairingMeta repairs the last file before raft-wal reads it. What is behind the last complete commit was
// never acknowledged; it is overwritten with zeros. A complete seal is recorded in the metadata, as raft-wal
// would have done.
type repairingMeta struct {
	types.MetaStore
	fs types.VFS
}

func (m repairingMeta) Load(dir string) (types.PersistentState, error) {
	state, err := m.MetaStore.Load(dir)
	if err != nil || len(state.Segments) == 0 {
		return state, err
	}
	last := &state.Segments[len(state.Segments)-1]
	if !last.SealTime.IsZero() {
		return state, nil
	}
	tail, err := repairTail(m.fs, dir, segment.FileName(*last))
	if err != nil || tail.indexStart == 0 {
		return state, err
	}
	last.SealTime = time.Now()
	last.IndexStart = tail.indexStart
	last.MaxIndex = last.BaseIndex + tail.entries - 1
	next := types.SegmentInfo{
		ID:         state.NextSegmentID,
		BaseIndex:  last.MaxIndex + 1,
		MinIndex:   last.MaxIndex + 1,
		SizeLimit:  last.SizeLimit,
		Codec:      last.Codec,
		CreateTime: time.Now(),
	}
	state.NextSegmentID++
	state.Segments = append(state.Segments, next) // raft-wal creates the file when it does not exist
	return state, m.CommitState(state)
}

// logTail is the content of a segment file up to its last complete commit.
type logTail struct {
	end        int64  // length in bytes
	entries    uint64 // number of log entries
	indexStart uint64 // offset of the index of a sealed file; 0 means the file is not sealed
}

// repairTail finds the end of the file's last complete commit and makes everything behind it zero, durably.
func repairTail(fs types.VFS, dir, name string) (logTail, error) {
	f, err := fs.OpenWriter(dir, name)
	if errors.Is(err, os.ErrNotExist) {
		return logTail{}, nil // no entry in it was ever acknowledged
	}
	if err != nil {
		return logTail{}, err
	}
	data, err := io.ReadAll(io.NewSectionReader(f, 0, math.MaxInt64))
	var tail logTail
	if err == nil {
		tail, err = scanTail(data)
	}
	if err == nil {
		err = zeroRest(f, data, tail.end)
	}
	return tail, errors.Join(err, f.Close())
}

// raft-wal's file format (its segment/format.go): a header, then frames, each padded to 8 bytes. A commit
// frame carries the CRC-32C of all bytes since the commit before it.
const (
	headerBytes      = 32
	frameHeaderBytes = 8
	frameEntry       = 1
	frameIndex       = 2
	frameCommit      = 3
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// scanTail finds the last complete commit. Only the last write before a crash can be torn. A complete commit
// behind a broken one is therefore damage of another kind, and scanTail returns a fault.
func scanTail(data []byte) (logTail, error) {
	var complete, current logTail
	broken := false
	batch := 0 // where the bytes of the next commit begin
	for off := headerBytes; off+frameHeaderBytes <= len(data); {
		kind, size := data[off], int64(binary.LittleEndian.Uint32(data[off+4:]))
		switch kind {
		case frameEntry:
			current.entries++
		case frameIndex:
			current.indexStart = uint64(off) + frameHeaderBytes
		case frameCommit:
			valid := crc32.Checksum(data[batch:off], castagnoli) == uint32(size)
			size = 0
			if valid && broken {
				return complete, damagedLog()
			}
			batch, broken = off+frameHeaderBytes, !valid
			if valid {
				current.end = int64(batch)
				complete = current
			}
		default:
			return complete, checkRest(data, complete)
		}
		if size > int64(len(data)-off) {
			return complete, checkRest(data, complete)
		}
		off += frameHeaderBytes + int(size+7)&^7
	}
	return complete, checkRest(data, complete)
}

// checkRest looks at what is behind the last commit that scanTail reached. A torn write is one batch at most.
// A complete batch behind a further commit shows that acknowledged data is damaged. It must not pass for data
// that was never written, so checkRest returns a fault.
func checkRest(data []byte, complete logTail) error {
	batch := 0 // behind the last frame that looks like a commit
	start := max(int(complete.end), headerBytes)
	for off := start; off+frameHeaderBytes <= len(data); off += frameHeaderBytes {
		if data[off] != frameCommit || data[off+1]|data[off+2]|data[off+3] != 0 {
			continue
		}
		want := binary.LittleEndian.Uint32(data[off+4:])
		if batch > 0 && crc32.Checksum(data[batch:off], castagnoli) == want {
			return damagedLog()
		}
		batch = off + frameHeaderBytes
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

// zeroRest overwrites with zeros what is not zero yet behind end, and syncs the file if it wrote anything.
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
