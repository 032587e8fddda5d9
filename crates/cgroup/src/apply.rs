//! Limits and device rules on a cgroup that is there: all when it is made, what differs while it lives.
//!
//! Owns the writing and the taking back. Leaves what has to be written to [`crate::limits`].

use dunnage_spec::Resources;
use dunnage_sys::Errno;

use crate::cgroup::Cgroup;
use crate::controller::Controller;
use crate::devices;
use crate::error::{Error, Refused, Result};
use crate::layout::Mode;
use crate::limits::{self, Live, Seen, Target, Write};
use crate::systemd::Scope;

impl Cgroup {
    /// Writes everything; adds what was refused and did not have to be.
    pub(crate) fn limit(&self, resources: &Resources, fresh: bool, refused: &mut Vec<Refused>) -> Result<()> {
        let view = View { cgroup: self, fresh, blocked: refused };
        let mut draft = limits::draft(self.layout().is_unified(), resources, &view)?;
        if let Some(scope) = self.scope() {
            // systemd must be told also of what a directory used before has already.
            let all = View { fresh: true, ..view };
            scope.prepare(&mut draft.writes, limits::draft(true, resources, &all)?.writes);
        }
        let mut more = draft.apply(&view)?;
        more.extend(self.check_cpuset(resources));
        more.extend(self.apply_devices(resources, fresh)?);
        refused.append(&mut more);
        Ok(())
    }

    fn apply_devices(&self, resources: &Resources, fresh: bool) -> Result<Option<Refused>> {
        if let Some(dir) = self.v1(Controller::Devices) {
            return devices::apply_v1(&resources.devices, dir, &self.host_path(Controller::Devices));
        }
        match self.unified() {
            Some(dir) => devices::apply_v2(&resources.devices, dir, self.path(), fresh),
            None => Err(self.no_controller("device rules", Controller::Devices, &[])),
        }
    }

    /// Changes limits: only values that differ are written, in an order that the kernel accepts, and all are taken
    /// back when one fails. Device rules stay as they were at creation: programs and devices that others have
    /// added since must survive.
    ///
    /// # Errors
    /// The first write that failed, or a contradiction in `resources`.
    pub fn update(&self, resources: &Resources) -> Result<Vec<Refused>> {
        let view = View { cgroup: self, fresh: false, blocked: &[] };
        let mut draft = limits::draft(self.layout().is_unified(), resources, &view)?;
        let mut refused = match self.scope() {
            None => draft.apply(&view)?,
            Some(scope) => {
                scope.round(&mut draft.writes);
                let written = draft.writes.clone();
                // First the files: a memory limit below usage kills within the write, which must not be systemd's.
                let mut refused = draft.apply(&view)?;
                match scope.set(&written) {
                    Ok(more) => refused.extend(more),
                    Err(error) => {
                        limits::take_back(&written, &view);
                        return Err(error);
                    }
                }
                self.write_again(scope)?;
                refused
            }
        };
        refused.extend(self.check_cpuset(resources));
        Ok(refused)
    }

    /// systemd may have written its own idea of a limit, or have taken a controller away for a moment and all that
    /// it was told with it: what is not as it must be is written again.
    pub(crate) fn write_again(&self, scope: &Scope) -> Result<()> {
        let view = View { cgroup: self, fresh: false, blocked: &[] };
        for write in scope.wanted() {
            match view.seen(write.controller, &write.file)? {
                Seen::Text(text) if limits::same(&write.file, &text, &write.value) => {}
                Seen::Absent if write.dispensable.is_some() => {}
                _ => view.write(&write, &write.value).map_err(|errno| view.explain(&write, errno))?,
            }
        }
        Ok(())
    }

    /// Writes a value that nobody asked for and that may fail: what a policy adds. Nothing is written when the file
    /// says so already.
    #[must_use]
    pub fn try_write(
        &self,
        controller: Controller,
        file: &str,
        value: &str,
        what: &'static str,
    ) -> Option<Refused> {
        let refused = |errno| Some(Refused { file: file.to_owned(), value: value.to_owned(), errno, what });
        let Some(dir) = self.dir(controller) else { return refused(Errno::NOENT) };
        let mut text = Vec::new();
        match dir.read(file, &mut text) {
            Ok(()) if text.trim_ascii() == value.as_bytes() => None,
            // Some files can only be written.
            Ok(()) | Err(Errno::INVAL | Errno::ACCESS) => match dir.write(file, value) {
                Ok(()) => self.scope()?.keep(Write {
                    controller,
                    file: file.to_owned().into(),
                    value: value.to_owned(),
                    undo: None,
                    dispensable: Some(what),
                }),
                Err(errno) => refused(errno),
            },
            Err(errno) => refused(errno),
        }
    }

    /// v2 accepts CPUs that the parent does not have and then uses the parent's.
    fn check_cpuset(&self, resources: &Resources) -> Option<Refused> {
        let wanted = resources.cpu.cpus.as_ref().filter(|_| self.layout().is_unified())?;
        let mut text = Vec::new();
        self.dir(Controller::Cpuset)?.read("cpuset.cpus.effective", &mut text).ok()?;
        limits::differs(wanted, str::from_utf8(&text).ok()?).then(|| Refused {
            file: "cpuset.cpus".to_owned(),
            value: wanted.clone(),
            errno: Errno::RANGE,
            what: "the parent does not have all of these CPUs; the kernel uses others",
        })
    }
}

/// A cgroup as the limits see it.
struct View<'a> {
    cgroup: &'a Cgroup,
    fresh: bool,
    /// Controllers that could not be enabled, for the message of a limit that needs one.
    blocked: &'a [Refused],
}

impl Live for View<'_> {
    fn seen(&self, controller: Controller, file: &str) -> Result<Seen> {
        if self.fresh {
            return Ok(Seen::Default);
        }
        let Some(dir) = self.cgroup.dir(controller) else { return Ok(Seen::Absent) };
        let mut text = Vec::new();
        match dir.read(file, &mut text) {
            Ok(()) => Ok(Seen::Text(String::from_utf8_lossy(text.trim_ascii()).into_owned())),
            // Files that can only be written say EINVAL.
            Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::INVAL) => Ok(Seen::Absent),
            Err(errno) => {
                let place = self.cgroup.host_path(controller).join(file);
                Err(dunnage_sys::Error::new(format!("read {}", place.display()), errno).into())
            }
        }
    }

    fn exists(&self, controller: Controller, file: &str) -> bool {
        self.cgroup.dir(controller).is_some_and(|dir| dir.open_name(file).is_ok())
    }
}

impl Target for View<'_> {
    fn write(&self, write: &Write, value: &str) -> Result<(), Errno> {
        let dir = self.cgroup.dir(write.controller).ok_or(Errno::NOENT)?;
        dir.write(write.file.as_ref(), value)
    }

    fn explain(&self, write: &Write, errno: Errno) -> Error {
        let Write { controller, file, value, .. } = write;
        let place = self.cgroup.host_path(*controller).join(file.as_ref());
        let call = dunnage_sys::Error::new(format!("write {value} to {}", place.display()), errno);
        let usage = |file: &str| self.cgroup.number(Controller::Memory, file).unwrap_or(0);
        let reason = match errno {
            Errno::NOENT if !self.has(*controller) => {
                return self.cgroup.no_controller(file, *controller, self.blocked);
            }
            Errno::NOENT => "this kernel has no such file".to_owned(),
            Errno::BUSY if *controller == Controller::Memory => format!(
                "in use are {} bytes, at most there were {}",
                usage("memory.usage_in_bytes"),
                usage("memory.max_usage_in_bytes")
            ),
            Errno::ACCESS | Errno::INVAL | Errno::NOSPC if *controller == Controller::Cpuset => {
                "it is not a part of what the parent cgroup has".to_owned()
            }
            Errno::INVAL
                if *controller == Controller::Cpu && self.cgroup.layout().mode() != Mode::Unified =>
            {
                "a parent cgroup has less CPU time, or a child more".to_owned()
            }
            _ => return call.into(),
        };
        Error::Explained { call, reason }
    }
}

impl View<'_> {
    fn has(&self, controller: Controller) -> bool {
        let Some(dir) = self.cgroup.dir(controller) else { return false };
        let mut text = Vec::new();
        !self.cgroup.layout().is_unified()
            || dir.read("cgroup.controllers", &mut text).is_ok()
                && String::from_utf8_lossy(&text).split_whitespace().any(|name| name == controller.name())
    }
}
