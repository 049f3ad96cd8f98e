// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
)

// file is the request that copies a whole file.
func file(a *Agent, path, content string) *agent.CopyFileRequest {
	return &agent.CopyFileRequest{
		Path: filepath.Join(a.Dir, copiedDir) + "/" + path, FileMode: unix.S_IFREG | 0o640, DirMode: 1<<31 | 0o750,
		FileSize: int64(len(content)), Data: []byte(content), Uid: int32(os.Getuid()), Gid: int32(os.Getgid()),
	}
}

func link(a *Agent, path, target string) *agent.CopyFileRequest {
	r := file(a, path, target)
	r.FileMode = unix.S_IFLNK | 0o777
	return r
}

func directory(a *Agent, path string) *agent.CopyFileRequest {
	r := file(a, path, "")
	r.FileMode = unix.S_IFDIR | 0o750
	return r
}

func copyAll(t *testing.T, a *Agent, requests ...*agent.CopyFileRequest) {
	t.Helper()
	for _, r := range requests {
		if _, err := a.CopyFile(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
}

// kubelet's way of laying out a Secret.
func secretVolume(a *Agent, volume string, files map[string]string) []*agent.CopyFileRequest {
	all := []*agent.CopyFileRequest{
		directory(a, volume), directory(a, volume+"/..2026_01_02"), link(a, volume+"/..data", "..2026_01_02"),
	}
	for name, content := range files {
		all = append(all, file(a, volume+"/..2026_01_02/"+name, content), link(a, volume+"/"+name, "..data/"+name))
	}
	return all
}

func TestCopyFile(t *testing.T) {
	a := testAgent(t)
	copyAll(t, a, secretVolume(a, "v", map[string]string{"user": "root", "empty": ""})...)
	base := filepath.Join(a.Dir, copiedDir, "v")
	if got, err := os.ReadFile(filepath.Join(base, "user")); err != nil || string(got) != "root" {
		t.Errorf("%q, %v", got, err)
	}
	info, err := os.Stat(filepath.Join(base, "user"))
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if info, err = os.Stat(base); err != nil || info.Mode() != fs.ModeDir|0o750 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	// In chunks, over what is there, and anew after it was given up.
	long := strings.Repeat("0123456789", 100)
	chunk := func(from, to int) *agent.CopyFileRequest {
		r := file(a, "v/..2026_01_02/user", long)
		r.Offset, r.Data = int64(from), r.Data[from:to]
		return r
	}
	for _, c := range []*agent.CopyFileRequest{chunk(0, 500), chunk(0, 400), chunk(400, 1000)} {
		if got, err := os.ReadFile(filepath.Join(base, "user")); err != nil || string(got) != "root" {
			t.Errorf("not whole yet: %q, %v", got, err)
		}
		copyAll(t, a, c)
	}
	if got, err := os.ReadFile(filepath.Join(base, "user")); err != nil || string(got) != long {
		t.Errorf("%q, %v", got, err)
	}
	// A kubelet's update: another directory, and the link to it.
	copyAll(t, a, file(a, "v/..2026_02_03/user", "new"), link(a, "v/..data", "..2026_02_03"), directory(a, "v"))
	if got, err := os.ReadFile(filepath.Join(base, "user")); err != nil || string(got) != "new" {
		t.Errorf("%q, %v", got, err)
	}
	left, err := os.ReadDir(filepath.Join(a.Dir, partialDir))
	if err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// CVE-2026-41326 (GHSA-q49m-57vm-c8cc): a host copies a link into the guest and then a file through it, and so writes anywhere in
// the guest.
func TestAttackCopyFileCVE2026_41326(t *testing.T) {
	outside := t.TempDir()
	for name, attack := range map[string]func(a *Agent) []*agent.CopyFileRequest{
		"through a link to a directory": func(a *Agent) []*agent.CopyFileRequest {
			return []*agent.CopyFileRequest{directory(a, "v"), link(a, "v/l", outside), file(a, "v/l/x", "evil")}
		},
		"through a link to a file": func(a *Agent) []*agent.CopyFileRequest {
			return []*agent.CopyFileRequest{directory(a, "v"), link(a, "v/l", outside+"/x"), file(a, "v/l", "evil")}
		},
		"a link up": func(a *Agent) []*agent.CopyFileRequest {
			return []*agent.CopyFileRequest{directory(a, "v"), link(a, "v/l", "../../../../"+outside), file(a, "v/l/x", "evil")}
		},
		"a link up from below": func(a *Agent) []*agent.CopyFileRequest {
			return []*agent.CopyFileRequest{directory(a, "v"), link(a, "v/l", "a/../../w"), file(a, "v/l/x", "evil")}
		},
		"a link for a volume": func(a *Agent) []*agent.CopyFileRequest {
			return []*agent.CopyFileRequest{directory(a, "w"), link(a, "v", "w")}
		},
		"through a link inside": func(a *Agent) []*agent.CopyFileRequest {
			return []*agent.CopyFileRequest{directory(a, "v/d"), link(a, "v/l", "d"), file(a, "v/l/x", "evil")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := testAgent(t)
			var err error
			for _, r := range attack(a) {
				if _, err = a.CopyFile(t.Context(), r); err != nil {
					break
				}
			}
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("%v", err)
			}
			for _, dir := range []string{outside, filepath.Join(a.Dir, copiedDir, "w"), filepath.Join(a.Dir, copiedDir, "v/d")} {
				if _, err := os.Lstat(filepath.Join(dir, "x")); err == nil {
					t.Errorf("there is an x in %s", dir)
				}
			}
		})
	}
}

// Somebody else has put a link where the agent writes: the path's resolution does not leave the directory all the same.
func TestAttackCopyFileLinkIsThere(t *testing.T) {
	a := testAgent(t)
	outside := t.TempDir()
	copyAll(t, a, directory(a, "v"))
	base := filepath.Join(a.Dir, copiedDir)
	if err := os.Symlink(outside, filepath.Join(base, "v/l")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside+"/x", filepath.Join(base, "v/f")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.CopyFile(t.Context(), file(a, "v/l/x", "evil")); err == nil {
		t.Error("a file was copied through a link")
	}
	copyAll(t, a, file(a, "v/f", "a file in the link's place"))
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("outside: %v, %v", left, err)
	}
	// The same while the agent is at it.
	stop, swapped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(swapped)
		real, other := filepath.Join(base, "v/d"), filepath.Join(base, "v/real")
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.Rename(real, other)
				_ = os.Symlink(outside, real)
				_ = os.Remove(real)
				_ = os.Rename(other, real)
			}
		}
	}()
	for range 2000 {
		_, _ = a.CopyFile(t.Context(), file(a, "v/d/x", "evil")) // some are refused
	}
	close(stop)
	<-swapped
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("outside: %v, %v", left, err)
	}
}

func TestAttackCopyFilePaths(t *testing.T) {
	a := testAgent(t)
	base := filepath.Join(a.Dir, copiedDir)
	for _, path := range []string{
		"", "/", "x", "v/x", "/etc/passwd", base, base + "/", base + "/.", base + "/..", base + "/../x", base + "/v/../../x", base + "//x",
		base + "/v/", base + "/v/./x", base + "x/y", filepath.Join(a.Dir, sharedDir) + "/x", filepath.Join(a.Dir, partialDir) + "/1",
		filepath.Join(a.Dir, sandboxDir) + "/hosts", base + "/v\x00", base + "/\xff", base + "/" + strings.Repeat("n", unix.NAME_MAX+1),
		base + "/" + strings.Repeat("d/", maxCopyDepth) + "x", "/proc/self/root" + base + "/x", "." + base + "/x",
	} {
		r := file(a, "v", "evil")
		r.Path = path
		if _, err := a.CopyFile(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%.100q: %v", path, err)
		}
	}
}

func TestAttackCopyFileKinds(t *testing.T) {
	for name, change := range map[string]func(*agent.CopyFileRequest){
		"no kind":                func(r *agent.CopyFileRequest) { r.FileMode = 0o644 },
		"a device":               func(r *agent.CopyFileRequest) { r.FileMode = unix.S_IFBLK | 0o644 },
		"a pipe":                 func(r *agent.CopyFileRequest) { r.FileMode = unix.S_IFIFO | 0o644 },
		"a socket":               func(r *agent.CopyFileRequest) { r.FileMode = unix.S_IFSOCK | 0o644 },
		"a negative size":        func(r *agent.CopyFileRequest) { r.FileSize = -1 },
		"a negative offset":      func(r *agent.CopyFileRequest) { r.Offset = -1 },
		"nobody's":               func(r *agent.CopyFileRequest) { r.Uid = -1 },
		"no group's":             func(r *agent.CopyFileRequest) { r.Gid = -1 },
		"more than its size":     func(r *agent.CopyFileRequest) { r.FileSize = 1 },
		"behind its end":         func(r *agent.CopyFileRequest) { r.Offset = 1 },
		"a chunk out of order":   func(r *agent.CopyFileRequest) { r.Offset, r.FileSize = 1, 100 },
		"a link to nothing":      func(r *agent.CopyFileRequest) { r.FileMode, r.Data = unix.S_IFLNK, nil },
		"a link with a zero":     func(r *agent.CopyFileRequest) { r.FileMode, r.Data = unix.S_IFLNK, []byte("a\x00b") },
		"a link that is no text": func(r *agent.CopyFileRequest) { r.FileMode, r.Data = unix.S_IFLNK, []byte("\xff") },
	} {
		t.Run(name, func(t *testing.T) {
			a := testAgent(t)
			r := file(a, "v/x", "evil")
			change(r)
			if _, err := a.CopyFile(t.Context(), r); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%v", err)
			}
		})
	}
	a := testAgent(t)
	r := file(a, "v/x", "x")
	r.FileMode |= 0o7000
	copyAll(t, a, r)
	if info, err := os.Stat(r.Path); err != nil || info.Mode() != 0o640 {
		t.Errorf("set-id bits: %v, %v", info.Mode(), err)
	}
	if _, err := a.CopyFile(t.Context(), directory(a, "v/x")); err == nil {
		t.Error("a directory replaces a file")
	}
	if _, err := a.CopyFile(t.Context(), file(a, "v", "x")); err == nil {
		t.Error("a file replaces a directory")
	}
}

// The host fills the guest's memory.
func TestAttackCopyFileFloods(t *testing.T) {
	a := testAgent(t)
	refused := func(what string, r *agent.CopyFileRequest) {
		t.Helper()
		if _, err := a.CopyFile(t.Context(), r); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: %v", what, err)
		}
	}
	announced := func(path string, size int64) *agent.CopyFileRequest {
		r := file(a, path, "x")
		r.FileSize = size
		return r
	}
	refused("a large file", announced("v/x", maxCopiedBytes+1))
	copyAll(t, a, announced("v/half", maxCopiedBytes/2+1))
	refused("another half", announced("v/other", maxCopiedBytes/2+1))
	copyAll(t, a, announced("v/half", maxCopiedBytes/2)) // anew
	for i := range maxPartial - 1 {
		copyAll(t, a, announced("v/part"+string(rune('a'+i)), 2))
	}
	refused("many on their way", announced("v/more", 2))
	deep := strings.Repeat("d/", maxCopyDepth-1)
	for i := 0; len(a.copied.entries)+maxCopyDepth < maxCopied; i++ {
		copyAll(t, a, directory(a, deep[:2*(i%maxCopyDepth)]+string(rune('A'+i%26))+strings.Repeat("i", i/26)))
	}
	for i := range maxCopied {
		if _, err := a.CopyFile(t.Context(), directory(a, "w"+strings.Repeat("i", i%200)+string(rune('A'+i/200)))); err != nil {
			break
		}
	}
	refused("many", directory(a, "one-more"))
}

// What a policy decides by.
func TestCopyFileInput(t *testing.T) {
	a := testAgent(t)
	for kind, r := range map[string]*agent.CopyFileRequest{
		"Regular": file(a, "v/x", "hi"), "Directory": directory(a, "v"), "Symlink": link(a, "v/l", "hi"), "Unknown": {Data: []byte("hi")},
	} {
		input := requestInput(r)
		_, data := input["data"]
		target, _ := input["symlink_target"].(string)
		if input["file_type"] != kind || data || (target == "hi") != (kind == "Symlink") || input["path"] != r.Path {
			t.Errorf("%s: %v", kind, input)
		}
		const hi = "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"
		if (input["data_sha256"] == hi) != (kind != "Directory") {
			t.Errorf("%s: %v", kind, input["data_sha256"])
		}
	}
}

func FuzzCopyFile(f *testing.F) {
	f.Add("v/x", "hi", uint32(unix.S_IFREG), int64(0))
	f.Add("v/l", "../x", uint32(unix.S_IFLNK), int64(0))
	f.Fuzz(func(t *testing.T, path, data string, mode uint32, offset int64) {
		a := testAgent(t)
		outside := filepath.Join(a.Dir, "outside")
		if err := os.Mkdir(outside, 0o700); err != nil {
			t.Fatal(err)
		}
		r := file(a, "v", data)
		r.Path, r.FileMode, r.Offset = filepath.Join(a.Dir, copiedDir)+"/"+path, mode, offset
		if _, err := a.CopyFile(t.Context(), r); err != nil {
			return
		}
		_, _ = a.CopyFile(t.Context(), &agent.CopyFileRequest{
			Path: r.Path + "/y", FileMode: unix.S_IFREG | 0o600, FileSize: 1, Data: []byte("y"), Uid: r.Uid, Gid: r.Gid,
		})
		for _, dir := range []string{outside, a.Dir} {
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if n := e.Name(); n != "outside" && n != sharedDir {
					t.Errorf("%q made %s", path, n)
				}
			}
		}
	})
}
