// SPDX-License-Identifier: Apache-2.0

// Command probe is what the test's containers run: it does what its first argument says.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

func main() {
	switch os.Args[1] {
	case "show": // what it sees of itself
		host, _ := os.Hostname()
		fmt.Printf("args=%q uid=%d gid=%d pid=%d host=%s\n", os.Args[2:], os.Getuid(), os.Getgid(), os.Getpid(), host)
		for _, e := range os.Environ() {
			fmt.Println("env " + e)
		}
		for _, field := range []string{"NoNewPrivs", "CapEff", "CapBnd", "Seccomp"} {
			fmt.Println(status(field))
		}
		for _, file := range []string{"/etc/resolv.conf", "/etc/hosts", "/etc/hostname"} {
			text, err := os.ReadFile(file)
			fmt.Printf("%s %v %q\n", file, err, text)
		}
		fmt.Println("mount", syscall.Mount("none", "/", "tmpfs", 0, ""))
		fmt.Println("mknod", syscall.Mknod("/node", syscall.S_IFBLK|0o600, 7<<8))
		fmt.Println("unshare", syscall.Unshare(syscall.CLONE_NEWUSER))
		_, err := syscall.Socket(40, syscall.SOCK_STREAM, 0)
		fmt.Println("vsock", err)
		// The kernel takes 32 bits of the family.
		_, _, errno := syscall.RawSyscall(syscall.SYS_SOCKET, 1<<32|40, syscall.SOCK_STREAM, 0)
		fmt.Println("wide vsock", errno)
		_, err = syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, 0)
		fmt.Println("packet", err)
		_, err = syscall.Socket(syscall.AF_INET, 10, 0) // SOCK_PACKET
		fmt.Println("old packet", err)
		_, _, errno = syscall.RawSyscall(syscall.SYS_SOCKET, 1<<32|syscall.AF_PACKET, syscall.SOCK_RAW, 0)
		fmt.Println("wide packet", errno)
		for _, family := range []int{syscall.AF_UNIX, syscall.AF_INET, syscall.AF_INET6, syscall.AF_NETLINK} {
			_, err = syscall.Socket(family, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
			fmt.Println("family", family, err)
		}
		for _, file := range []string{"slabinfo", "vmallocinfo", "kpagecount", "kpageflags", "kpagecgroup", "pagetypeinfo"} {
			text, err := os.ReadFile("/proc/" + file)
			fmt.Println(file, len(text) == 0, err == nil || os.IsNotExist(err))
		}
		fmt.Println("proc", os.WriteFile("/proc/sys/kernel/domainname", []byte("x"), 0))
		fmt.Fprintln(os.Stderr, "to the other stream")
	case "secrets": // what a variable and a file have, and whether the file can be written
		fmt.Println("env", os.Getenv(os.Args[2]))
		text, _ := os.ReadFile(os.Args[3])
		fmt.Println("file", string(text))
		fmt.Println("write", os.WriteFile(os.Args[3], nil, 0o600) != nil)
	case "read": // a file
		text, err := os.ReadFile(os.Args[2])
		if err != nil {
			fmt.Println(err)
		}
		fmt.Print(string(text))
	case "write": // a text into a file
		if err := os.WriteFile(os.Args[2], []byte(os.Args[3]), 0o600); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	case "exit":
		code, _ := strconv.Atoi(os.Args[2])
		os.Exit(code)
	case "wait": // for a signal; says which
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM, syscall.SIGUSR1)
		fmt.Println("waiting")
		fmt.Println("got", <-signals)
	case "echo":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "terminal": // whether its streams are one, of which size before and after a signal; then what is typed
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGWINCH)
		fmt.Println("terminal", window(0), window(1), window(2))
		<-signals
		fmt.Println("resized", window(0))
		lines := bufio.NewScanner(os.Stdin)
		lines.Scan()
		fmt.Println("typed", lines.Text())
	case "flood": // writes more than a pipe holds
		n, _ := strconv.Atoi(os.Args[2])
		line := []byte(strings.Repeat("x", 1023) + "\n")
		for range n {
			_, _ = os.Stdout.Write(line)
		}
	}
}

// window is the size of the terminal that a file is.
func window(file uintptr) string {
	var size [4]uint16
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, file, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return errno.Error()
	}
	return fmt.Sprintf("%dx%d", size[0], size[1])
}

func status(field string) string {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), field+":") {
			return strings.Join(strings.Fields(s.Text()), " ")
		}
	}
	return field + " is missing"
}
