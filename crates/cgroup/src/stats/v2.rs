//! Reading cgroup v2.

use super::{CpuV2, Dirs, IoV2, MemoryEvents, MemoryV2, Pressure, Reader, V2, parse};
use crate::controller::Controller;

impl Reader {
    pub(crate) fn v2(&mut self, dirs: &Dirs<'_>) -> V2 {
        V2 {
            pids: self.pids(dirs),
            cpu: self.cpu_v2(dirs),
            memory: self.memory_v2(dirs),
            memory_events: self.memory_events(dirs),
            rdma_current: self.rdma(dirs, "rdma.current"),
            rdma_limit: self.rdma(dirs, "rdma.max"),
            io: self.text(dirs, Controller::Io, "io.stat").map(io),
            io_pressure: self.pressure(dirs, Controller::Io, "io.pressure"),
            hugepages: self.hugepages(dirs, ["current", "max", "events"], |events| {
                parse::keyed(events).find(|(key, _)| *key == "max").map(|(_, count)| count)
            }),
        }
    }

    fn cpu_v2(&mut self, dirs: &Dirs<'_>) -> Option<CpuV2> {
        let mut cpu = CpuV2::default();
        for (key, value) in parse::keyed(self.text(dirs, Controller::Cpu, "cpu.stat")?) {
            if let Some(field) = cpu.field(key) {
                *field = Some(value);
            }
        }
        cpu.pressure = self.pressure(dirs, Controller::Cpu, "cpu.pressure");
        Some(cpu)
    }

    fn memory_v2(&mut self, dirs: &Dirs<'_>) -> Option<MemoryV2> {
        let mut memory = MemoryV2::default();
        for (key, value) in parse::keyed(self.text(dirs, Controller::Memory, "memory.stat")?) {
            if let Some(field) = memory.field(key) {
                *field = Some(value);
            }
        }
        memory.usage = self.number(dirs, Controller::Memory, "memory.current");
        memory.usage_limit = self.number(dirs, Controller::Memory, "memory.max");
        memory.max_usage = self.number(dirs, Controller::Memory, "memory.peak");
        memory.swap_usage = self.number(dirs, Controller::Memory, "memory.swap.current");
        memory.swap_limit = self.number(dirs, Controller::Memory, "memory.swap.max");
        memory.swap_max_usage = self.number(dirs, Controller::Memory, "memory.swap.peak");
        memory.pressure = self.pressure(dirs, Controller::Memory, "memory.pressure");
        Some(memory)
    }

    fn memory_events(&mut self, dirs: &Dirs<'_>) -> Option<MemoryEvents> {
        let mut events = MemoryEvents::default();
        for (key, value) in parse::keyed(self.text(dirs, Controller::Memory, "memory.events")?) {
            if let Some(field) = events.field(key) {
                *field = Some(value);
            }
        }
        Some(events)
    }

    fn pressure(&mut self, dirs: &Dirs<'_>, controller: Controller, name: &'static str) -> Option<Pressure> {
        self.text(dirs, controller, name).map(parse::pressure)
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`
fn io(text: &str) -> Vec<IoV2> {
    let entry = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (major, minor) = parse::device(fields.next()?)?;
        let mut entry = IoV2 { major, minor, ..IoV2::default() };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            if let Some(field) = entry.field(key) {
                *field = value.parse().ok();
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use dunnage_sys::kernfs::Dir;

    use super::*;

    #[test]
    fn a_directory_with_a_few_files_gives_those_values_and_nothing_for_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            ("cpu.stat", "usage_usec 120\nuser_usec 100\nsystem_usec 20\nnr_bursts 3\ncore_sched 1\n"),
            ("memory.stat", "anon 4096\ninactive_file 8192\nworkingset_refault_anon 5\n"),
            ("memory.current", "12288\n"),
            ("memory.max", "max\n"),
            ("memory.events", "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 5\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n9:1 \n"),
            ("hugetlb.2MB.current", "2097152\n"),
            ("hugetlb.2MB.rsvd.current", "1\n"),
            ("hugetlb.2MB.max", "max\n"),
            ("hugetlb.2MB.events", "max 7\n"),
        ];
        for (file, text) in files {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let dir = Dir::open(dir.path()).unwrap();
        let stats = Reader::default().v2(&|_| Some(&dir));
        let cpu = stats.cpu.unwrap();
        assert_eq!((cpu.usage_usec, cpu.nr_bursts, cpu.nr_periods), (Some(120), Some(3), None));
        assert!(cpu.pressure.is_none());
        let memory = stats.memory.unwrap();
        assert_eq!((memory.anon, memory.inactive_file), (Some(4096), Some(8192)));
        assert_eq!((memory.usage, memory.usage_limit, memory.max_usage), (Some(12288), Some(u64::MAX), None));
        assert_eq!(memory.workingset_refault, None);
        assert_eq!(stats.memory_events.unwrap().oom_group_kill, Some(5));
        let io = stats.io.unwrap();
        assert_eq!((io[0].wios, io[1].major, io[1].rbytes), (Some(4), 9, None));
        assert_eq!(stats.hugepages.len(), 1);
        let pages = &stats.hugepages[0];
        assert_eq!((pages.size.as_str(), pages.usage, pages.failures), ("2MB", 2_097_152, Some(7)));
        assert!(stats.pids.is_none());
    }

    #[test]
    fn a_second_reading_sees_new_values_through_the_same_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cpu.stat");
        fs::write(&file, "usage_usec 1\n").unwrap();
        let opened = Dir::open(dir.path()).unwrap();
        let mut reader = Reader::default();
        assert_eq!(reader.v2(&|_| Some(&opened)).cpu.unwrap().usage_usec, Some(1));
        fs::write(&file, "usage_usec 22\n").unwrap();
        assert_eq!(reader.v2(&|_| Some(&opened)).cpu.unwrap().usage_usec, Some(22));
    }
}
